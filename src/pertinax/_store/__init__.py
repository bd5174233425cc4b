"""Bytes by path, and what makes them durable: the one way in which Pertinax touches a disk.

Knows stores, temporary directories and their owners. Knows nothing of arrays, formats or steps.
`contract` says what a store is, `local` and `memory` are two; `draft` publishes, `leftovers`
removes, `owner` tells the living from the dead, `failures` turns errors of the disk into ours, and
`system` holds the few system calls that Python lacks.
"""
