# SPDX-License-Identifier: Apache-2.0
import sys
import threading

import orbax.checkpoint as ocp
from etils import epath
from saying import attempt, say

root = epath.Path(sys.argv[1])
manager = ocp.CheckpointManager(root)
seen = []
ready = threading.Event()


def train():
    for step in (1, 3, 5):
        ready.wait()
        ready.clear()
        manager.save(step, args=ocp.args.StandardSave({"n": step}))
        manager.wait_until_finished()


trainer = threading.Thread(target=train)
trainer.start()
ready.set()
steps = ocp.checkpoint_utils.checkpoints_iterator(
    root, min_interval_secs=0, timeout=60, timeout_fn=lambda: len(seen) == 3
)
for step in steps:
    seen.append(step)
    ready.set()
    if len(seen) == 3:
        break
steps.close()  # at the end of the program it would be too late for epath
trainer.join()
say("iterated", seen)
with ocp.checkpoint_utils.wait_for_new_checkpoint(root, until_step=5, timeout=60) as step:
    say("waited", step)
with ocp.checkpoint_utils.wait_for_new_checkpoint(root, until_step=9, timeout=0) as step:
    say("not there", step)
found = ocp.path.step.latest_step_metadata(root, ocp.path.step.standard_name_format())
say("latest", [found.step, found.path.name])
reader = ocp.CheckpointManager(root, options=ocp.CheckpointManagerOptions(read_only=True))
say("read only", [sorted(reader.all_steps()), reader.latest_step()])
attempt("no saving", lambda: reader.save(7, args=ocp.args.StandardSave({"n": 7})))
say("restored", reader.restore(5, args=ocp.args.StandardRestore({"n": 0})))
reader.close()
manager.close()
