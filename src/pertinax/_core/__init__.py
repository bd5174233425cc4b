"""The verbs: save, load, describe, verify, and the handle of a save in flight."""
