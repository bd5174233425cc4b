"""Many checkpoints over time: naming, history, policies, retention, deletion, recovery."""
