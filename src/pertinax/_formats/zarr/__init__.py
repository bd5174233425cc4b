# SPDX-License-Identifier: Apache-2.0
"""Zarr arrays, versions 2 and 3: metadata, chunk keys, chunk codecs. Knows nothing of trees or
containers.
"""
