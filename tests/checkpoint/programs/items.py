# SPDX-License-Identifier: Apache-2.0
import sys
from unittest import mock

import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from saying import attempt, say

root = epath.Path(sys.argv[1])
args, C = ocp.args, ocp.args.Composite
tree = {"w": np.arange(3), "n": 1}


def both(**more):
    return C(state=args.StandardSave(tree), meta=args.JsonSave({"a": (1, 2)}), **more)


def entries(handler):
    found = handler._handler_registry.get_all_entries()
    return [[item, kind.__name__, type(one).__name__] for (item, kind), one in found.items()]


free = ocp.CompositeCheckpointHandler()
checkpointer = ocp.Checkpointer(free)
say("knows nothing", entries(free))
attempt("save", lambda: checkpointer.save(root / "a", args=both()))
say("learned", entries(free))
attempt("restore", lambda: checkpointer.restore(root / "a"))
attempt("restore empty", lambda: checkpointer.restore(root / "a", args=C()))
attempt("restore one", lambda: checkpointer.restore(root / "a", args=C(meta=args.JsonRestore())))
attempt("restore None", lambda: checkpointer.restore(root / "a", args=C(meta=None)))
attempt(
    "restore missing",
    lambda: checkpointer.restore(root / "a", args=C(x=args.JsonRestore())),
    "was not found in the checkpoint",
)
attempt(
    "restore other",
    lambda: checkpointer.restore(root / "a", args=C(meta=args.StandardRestore())),
    "does not match with any registered handler",
)
attempt(
    "save other",
    lambda: checkpointer.save(root / "b", args=C(meta=args.StandardSave(tree))),
    "does not match with any registered handler",
)
attempt("save value", lambda: checkpointer.save(root / "b2", args=C(meta=3)))
attempt(
    "save unknown None",
    lambda: checkpointer.save(root / "b3", args=C(q=None)),
    "Provided `None` for `CheckpointArgs`",
)
attempt("new item", lambda: checkpointer.save(root / "c", args=both(more=args.JsonSave(1))))
attempt("meta keys", lambda: sorted(checkpointer.metadata(root / "a").keys()))
found = checkpointer.restore(root / "a")
say("has", ["state" in found, "more" in found, len(found), found.get("x", 7), sorted(found.keys())])

fresh = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
attempt("fresh", lambda: fresh.restore(root / "a"), "could not be restored")
attempt(
    "fresh None",
    lambda: fresh.restore(root / "a", args=C(meta=None)),
    "Provided `None` for `CheckpointArgs`",
)
attempt("fresh meta", lambda: dict(fresh.metadata(root / "a").items()))
attempt("fresh args", lambda: fresh.restore(root / "a", args=C(state=args.PyTreeRestore())))

named = ocp.CompositeCheckpointHandler("state", meta=ocp.JsonCheckpointHandler(), late=None)
say("named", [entries(named), named._item_names_without_registered_handlers])
closed = ocp.Checkpointer(named)
attempt(
    "undetermined",
    lambda: closed.restore(root / "a"),
    "undetermined `CheckpointHandler` when restoring",
)
attempt("closed save", lambda: closed.save(root / "d", args=both()))
attempt(
    "closed more",
    lambda: closed.save(root / "e", args=both(more=args.JsonSave(1))),
    "does not match with any registered handler",
)
attempt("closed part", lambda: closed.save(root / "f", args=C(meta=args.JsonSave(2))))
attempt("closed part back", lambda: closed.restore(root / "f"))
attempt(
    "closed missing",
    lambda: closed.restore(root / "f", args=C(state=args.StandardRestore())),
    "was not found in the checkpoint",
)

alone = ocp.CompositeCheckpointHandler()
(root / "g").mkdir()
attempt("too early", lambda: alone.finalize(root / "g"))
attempt("alone", lambda: alone.save(root / "g", C(a=args.JsonSave(1), b=args.JsonSave(2))))
say(
    "before",
    [alone._items_exist(root / "g", ["a", "b", "c"]), sorted(alone._current_temporary_paths)],
)
attempt("finalize", lambda: alone.finalize(root / "g"))
say(
    "after",
    [
        alone._items_exist(root / "g", ["a", "b", "c"]),
        sorted(p.name for p in (root / "g").iterdir()),
    ],
)
attempt("twice", lambda: alone.finalize(root / "g"))
attempt("alone back", lambda: alone.restore(root / "g"))
attempt("nowhere", lambda: alone.restore(root / "nowhere"))
attempt("get or set", lambda: type(alone._get_or_set_handler("z", args.JsonSave(1))).__name__)

stand_in = mock.create_autospec(ocp.StandardCheckpointHandler)
stand_in.async_save.return_value = None
with ocp.AsyncCheckpointer(stand_in) as one:
    one.save(root / "m", 1)
say("mock", [call[0] for call in stand_in.mock_calls])


class Old(ocp.CheckpointHandler):
    def save(self, directory, *args, **kwargs):
        (directory / "call").write_text(repr((args, kwargs)))

    def restore(self, directory, *args, **kwargs):
        return (directory / "call").read_text(), args, kwargs


with ocp.CheckpointManager(
    root / "h", item_handlers={"old": Old(), "json": ocp.JsonCheckpointHandler()}
) as manager:
    attempt(
        "old item",
        lambda: manager.save(0, {"old": 1, "json": {"a": 1}}, save_kwargs={"old": {"b": 2}}),
    )
    attempt("old item back", lambda: manager.restore(0, {"old": 3, "json": None})["old"])
