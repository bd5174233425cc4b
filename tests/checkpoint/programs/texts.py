# SPDX-License-Identifier: Apache-2.0
import sys

import orbax.checkpoint as ocp
from etils import epath
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from saying import attempt, say

root = epath.Path(sys.argv[1])
file = descriptor_pb2.FileDescriptorProto(name="p.proto", package="programs", syntax="proto3")
message = file.message_type.add(name="M")
message.field.add(name="a", number=1, type=5, label=1)
message.field.add(name="s", number=2, type=9, label=3)
pool = descriptor_pool.DescriptorPool()
pool.Add(file)
M = message_factory.GetMessageClass(pool.FindMessageTypeByName("programs.M"))

json = ocp.Checkpointer(ocp.JsonCheckpointHandler())
for name, value in {
    "dict": {"a": (1, {2: None})},
    "text": "é",
    "null": None,
    "list": [1.5, True],
    "number": 0,
}.items():
    attempt(
        name, lambda value=value, name=name: json.save(root / name, args=ocp.args.JsonSave(value))
    )
    attempt(name, lambda name=name: json.restore(root / name))
    say(name, (root / name / "metadata").read_text())
attempt("unserialisable", lambda: json.save(root / "bad", {"a": object()}), "not JSON serializable")
attempt("nothing", lambda: json.save(root / "bad"))
attempt("misspelt", lambda: json.save(root / "bad", itme=1))
attempt("ignored", lambda: json.restore(root / "dict", args=ocp.args.JsonRestore(5)))
(root / "empty").mkdir()
attempt("missing", lambda: json.restore(root / "empty"))
attempt("metadata", lambda: json.metadata(root / "dict"))
handler = ocp.JsonCheckpointHandler("mine")
attempt("own name", lambda: handler.save(root / "empty", {"a": 1}))
say("own name", [(root / "empty" / "mine").read_text(), handler._filename])
attempt("args in place", lambda: handler.save(root / "empty", ocp.args.JsonSave(1)), "args=")
handler.close()
attempt("closed", lambda: handler.save(root / "empty", 1))
attempt("closed reads", lambda: handler.restore(root / "empty"))

proto = ocp.Checkpointer(ocp.ProtoCheckpointHandler())
attempt("proto", lambda: proto.save(root / "p", args=ocp.args.ProtoSave(M(a=1, s=["x", "é"]))))
say(
    "file",
    [
        p.name
        for p in (root / "p").iterdir()
        if p.name.endswith("txt") and p.name != "commit_success.txt"
    ],
)
attempt(
    "proto back",
    lambda: proto.restore(root / "p", args=ocp.args.ProtoRestore(M)) == M(a=1, s=["x", "é"]),
)
attempt("proto item", lambda: proto.restore(root / "p", item=M).a)
attempt("proto class needed", lambda: proto.restore(root / "p"))
attempt("proto positional", lambda: proto.save(root / "q", M(a=2)))
attempt("proto no message", lambda: proto.save(root / "r", 5))
alone = ocp.ProtoCheckpointHandler("my.txt")
attempt("alone", lambda: alone.save(root / "empty", M(a=3)))
attempt("alone back", lambda: alone.restore(root / "empty", M).a)
attempt("alone no class", lambda: alone.restore(root / "empty"), "Must provide `item`")
attempt("alone missing", lambda: alone.restore(root / "dict", M))
