# SPDX-License-Identifier: Apache-2.0
"""Runs: boxes of an array whose elements are stored as consecutive runs in C order.

Knows which elements of the whole array a box spans, and how to cut it out of the runs. Knows
nothing of files.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pertinax._plan.boxes import Box, Shape


def flat_range(box: Box, shape: Shape) -> tuple[int, int]:
    """From the first element of a box of an array of `shape` to behind its last, in C order."""
    if not box.size:
        return 0, 0
    start = stop = 0
    for low, high, size in zip(box.start, box.stop, shape, strict=True):
        start, stop = start * size + low, stop * size + high - 1
    return start, stop + 1


def flat_runs(box: Box, shape: Shape, *, most: int) -> list[tuple[int, int]]:
    """The runs of elements that a box takes up in an array of `shape`, in C order; if there would
    be more than `most`, one that reaches from the first to the last.
    """
    if not box.size:
        return []
    inner = len(shape)  # from this dimension on, all of each row is inside
    while inner and box.start[inner - 1] == 0 and box.stop[inner - 1] == shape[inner - 1]:
        inner -= 1
    outer = max(0, inner - 1)
    sizes = box.shape[:outer]
    if math.prod(sizes) > most:
        return [flat_range(box, shape)]
    first, end = flat_range(Box(box.start[outer:], box.stop[outer:]), shape[outer:])
    stride = math.prod(shape[outer:])
    runs: list[tuple[int, int]] = []
    for index in np.ndindex(*sizes):
        base = 0
        for low, i, size in zip(box.start, index, shape, strict=False):
            base = base * size + low + i
        runs.append((base * stride + first, base * stride + end))
    return runs


def flat_box(box: Box, shape: Shape, runs: Sequence[tuple[Box, NDArray[Any]]]) -> NDArray[Any]:
    """The elements of `box`, out of the runs that hold all of its range, in order."""
    if not box.size:
        return np.zeros(box.shape, runs[0][1].dtype if runs else np.uint8)
    start, stop = flat_range(box, shape)
    parts = [elements[max(0, start - run.start[0]) : stop - run.start[0]] for run, elements in runs]
    flat = np.concatenate(parts)
    # Where the box is narrower than the array, what lies between its rows is skipped by strides.
    strides = [flat.itemsize * math.prod(shape[i + 1 :]) for i in range(len(shape))]
    seen = np.lib.stride_tricks.as_strided(flat, box.shape, strides, writeable=False)
    return np.ascontiguousarray(seen).reshape(box.shape)
