"""Where bytes live: object stores, their keys, the atomic commit, receipts of finished work."""
