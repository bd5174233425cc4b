# SPDX-License-Identifier: Apache-2.0
"""Between accelerator and host: understand live leaves, hold their bytes still, place bytes as
arrays.
"""
