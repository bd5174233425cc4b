# SPDX-License-Identifier: Apache-2.0
"""What `test_utils` offers, by subject. Knows nothing itself."""
