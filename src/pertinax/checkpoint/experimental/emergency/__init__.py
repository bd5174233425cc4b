"""Checkpoints that survive the loss of hosts: `checkpoint_manager` has the manager.

Knows names only.
"""
