# SPDX-License-Identifier: Apache-2.0
import dataclasses
import sys

import orbax.checkpoint as ocp
from etils import epath
from saying import attempt, say

root = epath.Path(sys.argv[1])
args, C = ocp.args, ocp.args.Composite


class Words(ocp.CheckpointHandler):
    def __init__(self, name="words"):
        self.name = name

    def save(self, directory, args):
        (directory / self.name).write_text(args.text)

    def restore(self, directory, args):
        return (directory / self.name).read_text()


@args.register_with_handler(Words, for_save=True)
@dataclasses.dataclass
class WordsSave(args.CheckpointArgs):
    text: str


@args.register_with_handler(Words, for_restore=True)
@dataclasses.dataclass
class WordsRestore(args.CheckpointArgs):
    pass


class Needs(Words):
    def __init__(self, needed):
        super().__init__(needed)


registry = ocp.DefaultCheckpointHandlerRegistry()
special = Words("special")
attempt("add", lambda: registry.add("a", WordsSave, special))
attempt("add by instance", lambda: registry.add("a", WordsRestore(), special))
attempt("add class", lambda: registry.add("b", WordsSave, Words))
attempt("add none", lambda: registry.add("c", WordsSave))
attempt(
    "add general", lambda: registry.add(None, args.JsonSave, ocp.JsonCheckpointHandler("special"))
)
attempt(
    "add general",
    lambda: registry.add(None, args.JsonRestore, ocp.JsonCheckpointHandler("special")),
)
attempt("twice", lambda: registry.add("a", WordsSave), "already exists in the registry")
attempt("twice names", lambda: registry.add("a", WordsSave), "Entry for item=a and args_type=")
attempt("no default", lambda: registry.add("d", WordsSave, Needs), "not default-constructible")
attempt(
    "unregistered",
    lambda: registry.add("d", args.CheckpointArgs),
    "Provided a `None` `CheckpointHandler`",
)
attempt("get", lambda: registry.get("a", WordsSave("x")) is special)
attempt("get none", lambda: registry.get("z", WordsSave), "No entry for item=z and args_ty=")
attempt("no fall back", lambda: registry.get("z", args.JsonSave), "in the registry")
attempt(
    "has",
    lambda: [
        registry.has("a", WordsSave),
        registry.has("a", args.JsonSave),
        registry.has(None, args.JsonSave),
        registry.has("z", args.JsonSave),
    ],
)
attempt("entries", lambda: [[item, kind.__name__] for item, kind in registry.get_all_entries()])
copied = ocp.DefaultCheckpointHandlerRegistry(registry)
attempt("copied", lambda: copied.get("a", WordsSave) is special)
copied.add("e", WordsSave)
attempt("own copy", lambda: registry.has("e", WordsSave))

attempt(
    "mixed", lambda: ocp.CompositeCheckpointHandler("a", handler_registry=registry), "item_names"
)
attempt(
    "mixed",
    lambda: ocp.CompositeCheckpointHandler(a=Words(), handler_registry=registry),
    "items_and_handlers",
)
checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler(handler_registry=registry))
items = C(a=WordsSave("x"), j=args.JsonSave([1]), free=args.PyTreeSave({"k": 1}))
attempt("save", lambda: checkpointer.save(root / "it", args=items))
say("files", [(root / "it" / "a" / "special").exists(), (root / "it" / "j" / "special").exists()])
wanted = C(a=WordsRestore(), j=args.JsonRestore(), free=args.PyTreeRestore())
attempt("restore", lambda: checkpointer.restore(root / "it", args=wanted))
say("untouched", len(registry.get_all_entries()))

say("registered", [kind.__name__ for kind in args.get_registered_args_cls(Words())])
attempt("handler", lambda: args.get_registered_handler_cls(WordsSave("x")).__name__)
attempt("handler of class", lambda: args.get_registered_handler_cls(args.JsonRestore).__name__)
attempt("has args", lambda: [args.has_registered_args(Words), args.has_registered_args(Needs)])


@dataclasses.dataclass
class Child(WordsSave):
    pass


attempt("child", lambda: args.get_registered_handler_cls(Child))
attempt("no args", lambda: args.get_registered_handler_cls(int))
attempt("none registered", lambda: args.get_registered_args_cls(Needs))
attempt("no flags", lambda: args.register_with_handler(Words)(Child))
attempt("not args", lambda: args.register_with_handler(Words, for_save=True)(int), "must subclass")
attempt(
    "again",
    lambda: args.register_with_handler(Needs, for_save=True, for_restore=True)(Child) is Child,
)
attempt("both", lambda: [kind.__name__ for kind in args.get_registered_args_cls(Needs)])
for name in ("Standard", "PyTree", "Array", "Json", "Proto", "JaxRandomKey", "NumpyRandomKey"):
    save, restore = getattr(args, name + "Save"), getattr(args, name + "Restore")
    say(name, [[field.name for field in dataclasses.fields(kind)] for kind in (save, restore)])
    say(name, args.get_registered_handler_cls(save).__name__)
