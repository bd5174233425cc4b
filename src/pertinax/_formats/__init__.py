# SPDX-License-Identifier: Apache-2.0
"""What is on disk: formats turn manifests into files and files into manifests."""
