# SPDX-License-Identifier: Apache-2.0
"""Orbax's JSON files, one module each: bytes in, values out, and back. Knows nothing of stores or
arrays.
"""
