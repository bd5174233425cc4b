# SPDX-License-Identifier: Apache-2.0
"""The tests, importable as `tests.*` so that they can share helpers."""
