"""Offline evaluation reports: one file per report, ``command.py`` names them."""
