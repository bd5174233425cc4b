# SPDX-License-Identifier: Apache-2.0
"""The version of this library, in one place. Knows a number and nothing else."""

VERSION = "0.1.0"
