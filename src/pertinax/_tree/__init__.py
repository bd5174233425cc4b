# SPDX-License-Identifier: Apache-2.0
"""Trees as data: how a nest of containers becomes named leaves and a skeleton, and back. Pure."""
