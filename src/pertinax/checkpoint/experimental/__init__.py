"""What Orbax calls experimental: the emergency tier. Knows names only."""
