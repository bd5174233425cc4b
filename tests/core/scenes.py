# SPDX-License-Identifier: Apache-2.0
"""Stores that watch: what is read, and how often."""

import collections

from pertinax._store.memory import MemoryStore


class CountingStore:
    """Any store; counts every byte that is read, file by file, and remembers its ranges."""

    def __init__(self, inner=None, *, maps=False):
        self.inner = MemoryStore() if inner is None else inner
        self.maps = maps
        self.ranges = collections.defaultdict(list)
        self.opened = 0

    def open(self, path):
        self.opened += 1
        return CountingReader(self.inner.open(path), self.ranges[path], self.maps)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def data_bytes(self):
        """Bytes of array data that were read."""
        return sum(
            b - a for path, ranges in self.ranges.items() if "/d/" in path for a, b in ranges
        )

    def read_twice(self):
        """Bytes of array data that were read more than once."""
        twice = 0
        for path, ranges in self.ranges.items():
            end = 0
            for a, b in sorted(ranges) if "/d/" in path else []:
                twice += max(0, min(end, b) - a)
                end = max(end, b)
        return twice


class CountingReader:
    def __init__(self, inner, ranges, maps):
        self.inner = inner
        self.ranges = ranges
        self.maps = maps

    def read(self, offset, length):
        self.ranges.append((offset, offset + length))
        return self.inner.read(offset, length)

    def read_into(self, offset, buffer):
        self.ranges.append((offset, offset + buffer.nbytes))
        self.inner.read_into(offset, buffer)

    def map(self, *, populate=True):
        return self.inner.map(populate=populate) if self.maps else None

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.inner.close()
