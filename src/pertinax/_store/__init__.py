# SPDX-License-Identifier: Apache-2.0
"""Bytes by path, and what makes them durable: the one way in which Pertinax touches a disk.

Knows stores, temporary directories and their owners. Knows nothing of arrays, formats or steps.
`contract` says what a store is; `local`, `memory` and those in `objects` are some. `publishing`
says how checkpoints appear and vanish; where names can change, `draft` publishes and `leftovers`
removes. `owner` tells the living from the dead, `failures` turns errors of the disk into ours,
and `system` holds the few system calls that Python lacks.
"""
