"""The tests, importable as `tests.*` so that they can share helpers."""
