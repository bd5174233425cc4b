# SPDX-License-Identifier: Apache-2.0
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from saying import say

root = epath.Path(sys.argv[1])
heard = []


def event(name, **facts):
    if name.startswith(("/jax/orbax/", "/jax/checkpoint/")):
        heard.append([name, facts.get("bytes")] if "bytes" in facts else [name])


def duration(name, value, **facts):
    event(name)


def look(name):
    say(name, sorted(heard))
    heard.clear()


jax.monitoring.register_event_listener(event)
jax.monitoring.register_event_duration_secs_listener(duration)
tree = {"a": jnp.arange(4), "b": np.ones(3)}
one = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
look("made")
one.save(root / "a", tree)
look("saved")
one.save(root / "b", args=ocp.args.PyTreeSave(tree))
look("saved with args")
one.restore(root / "a", args=ocp.args.PyTreeRestore(tree))
look("restored")
with ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler()) as two:
    look("made async")
    two.save(root / "c", args=ocp.args.StandardSave(tree))
    two.wait_until_finished()
    look("saved async")
three = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
three.save(root / "d", args=ocp.args.Composite(x=ocp.args.JsonSave(1), y=ocp.args.JsonSave(2)))
look("saved items")
three.restore(root / "d")
look("restored items")
