# SPDX-License-Identifier: Apache-2.0
"""Plans: which regions of which arrays go where, as plain data. Pure: no I/O, no clock, no JAX."""
