# SPDX-License-Identifier: Apache-2.0
"""Asks the `orbax.checkpoint` of this environment and prints its answers as JSON.

    python tests/interop/releases/ask.py ITEMS SCRATCH DIRECTORY_OF_TRANSFORM_CASES

Knows how an interpreter is made ready. The questions are those of `cases`.
"""

import json
import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, sys.argv[3])

import orbax.checkpoint as ocp
from cases import answer, questions
from etils import epath

items, scratch = epath.Path(sys.argv[1]), epath.Path(sys.argv[2])
print(json.dumps({name: answer(ask) for name, ask in questions(ocp, items, scratch)}))
