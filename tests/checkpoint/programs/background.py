# SPDX-License-Identifier: Apache-2.0
import asyncio
import concurrent.futures
import sys

import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from saying import attempt, say

root = epath.Path(sys.argv[1])
log = []
pool = concurrent.futures.ThreadPoolExecutor(1)


class Recorder(ocp.AsyncCheckpointHandler):
    def __init__(self, result=None, fail=""):
        self.how = result
        self.fail = fail

    def note(self, what):
        log.append([what, sorted(p.name for p in root.iterdir() if "tmp" not in p.name)])
        if what == self.fail:
            raise RuntimeError(what + " failed")

    async def async_save(self, directory, item):
        self.note("async_save")
        await asyncio.sleep(0)
        (directory / "it").write_text(item)
        future = pool.submit(self.note, "write")
        return {"none": None, "list": [future], "nested": [[future], None, [[None]]]}[self.how]

    def save(self, directory, item):
        (directory / "it").write_text(item)

    def restore(self, directory):
        return (directory / "it").read_text()

    def finalize(self, directory):
        self.note("finalize")

    def close(self):
        self.note("close")


for how in ("none", "list", "nested"):
    handler = Recorder(how)
    callback = lambda handler=handler: handler.note("callback")
    options = ocp.options.AsyncOptions(post_finalization_callback=callback)
    with ocp.AsyncCheckpointer(handler, async_options=options) as checkpointer:
        attempt(how, lambda: checkpointer.save(root / how, "words"))
        attempt(how + " back", lambda: checkpointer.restore(root / how))
        attempt(how + " check", checkpointer.check_for_errors)
    pool.submit(int).result()
    say(how + " log", [entry for entry in log if entry[0] != "write"])
    log.clear()

for fail in ("write", "finalize", "callback"):
    handler = Recorder("list", fail)
    callback = lambda handler=handler: handler.note("callback")
    options = ocp.options.AsyncOptions(post_finalization_callback=callback)
    for then in ("wait_until_finished", "close", "restore", "save"):
        checkpointer = ocp.AsyncCheckpointer(handler, async_options=options)
        checkpointer.save(root / "bad", "words")
        arguments = {"restore": (root / "none",), "save": (root / "other", "x")}.get(then, ())
        attempt(
            fail + " " + then, lambda: getattr(checkpointer, then)(*arguments), fail + " failed"
        )
        attempt(fail + " " + then + " again", checkpointer.wait_until_finished)
    say(fail + " there", sorted(p.name for p in root.iterdir() if "tmp" not in p.name))

handler = Recorder("list", "async_save")
checkpointer = ocp.AsyncCheckpointer(handler)
attempt("at once", lambda: checkpointer.save(root / "bad", "words"), "async_save failed")
attempt("then nothing", checkpointer.wait_until_finished)


class Plain(ocp.CheckpointHandler):
    def save(self, directory, item):
        pass

    def restore(self, directory):
        pass


attempt("plain", lambda: ocp.AsyncCheckpointer(Plain()))
value = np.arange(5)
with ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler(), timeout_secs=30) as checkpointer:
    checkpointer.save(root / "v", args=ocp.args.StandardSave({"a": value}))
    value[:] = 0
    attempt(
        "taken",
        lambda: checkpointer.save(root / "v", args=ocp.args.StandardSave({"a": 1})),
        "already exists",
    )
    attempt("as it was", lambda: checkpointer.restore(root / "v"))
say(
    "defaults",
    [ocp.options.AsyncOptions().timeout_secs, ocp.options.AsyncOptions().barrier_sync_fn],
)
pool.shutdown()
