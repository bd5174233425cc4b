"""Several processes that work on one checkpoint.

Knows names only.
"""
