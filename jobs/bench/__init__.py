"""Benchmarks: each runs what is compared side by side, on the same input, and reports ratios."""
