# SPDX-License-Identifier: Apache-2.0
"""What Orbax 0.8.0 itself answers, in an environment of its own."""
