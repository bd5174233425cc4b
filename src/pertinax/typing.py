# SPDX-License-Identifier: Apache-2.0
"""The words that types share.

Knows names for types only. Knows nothing of behaviour.
"""

import os
from typing import Any

PyTree = Any
"""Nested containers that JAX can flatten, with leaves of any kind listed in `docs/concepts.md`."""

PathLike = str | os.PathLike[str]
"""A place: text (`~` and `file://` are understood) or any path object, relative or absolute."""
