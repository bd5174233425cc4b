# SPDX-License-Identifier: Apache-2.0
"""What Orbax calls experimental: the emergency tier. Knows names only."""
