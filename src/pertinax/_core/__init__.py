# SPDX-License-Identifier: Apache-2.0
"""The verbs: save, load, describe, verify, and the handle of a save in flight."""
