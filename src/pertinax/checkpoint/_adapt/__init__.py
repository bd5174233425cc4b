# SPDX-License-Identifier: Apache-2.0
"""Adapters: the words of the mirrored API translated into those of the engine."""
