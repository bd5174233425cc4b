# SPDX-License-Identifier: Apache-2.0
"""The newest state of a run in one line of hexadecimal: `python -m tests.crash.digest root`.

Knows `Manager` and hashes. For tools that compare an interrupted run with one that was not.
"""

import hashlib
import sys
from typing import Any

import jax
import numpy as np

import pertinax


def digest(root: str) -> str:
    """The newest step and a hash of every bit of its state."""
    manager = pertinax.Manager(root)
    found = manager.restore()
    whole = hashlib.sha256()
    leaves, _ = jax.tree.flatten_with_path(found.tree)
    for path, leaf in leaves:
        value: Any = leaf
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(leaf)
        array = np.asarray(value)
        whole.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        whole.update(array.tobytes())
    return f"{found.step} {whole.hexdigest()}"


if __name__ == "__main__":
    print(digest(sys.argv[1]))
