"""Pertinax keeps JAX training state: saved whole, read back right, on any topology."""
