# SPDX-License-Identifier: Apache-2.0
"""Two tiers for one run: storage that is near each process, and storage that outlives them all."""
