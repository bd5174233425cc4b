# SPDX-License-Identifier: Apache-2.0
"""Many checkpoints over time: naming, history, policies, retention, deletion, recovery."""
