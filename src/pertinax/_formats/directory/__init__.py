# SPDX-License-Identifier: Apache-2.0
"""One file per key (`use_ocdbt=False`): which file holds which key. Knows nothing of what is in the
files.
"""
