"""What `test_utils` offers, by subject. Knows nothing itself."""
