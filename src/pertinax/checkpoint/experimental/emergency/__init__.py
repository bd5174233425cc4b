# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that survive the loss of hosts: `checkpoint_manager` has the manager.

Knows names only.
"""
