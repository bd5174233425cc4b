# SPDX-License-Identifier: Apache-2.0
import orbax.checkpoint as ocp
from saying import attempt, say

C = ocp.args.Composite
one = C(a=1, b=2)
say(
    "attributes", [one.a, one["b"], "a" in one, "x" in one, len(one), one.get("x"), one.get("x", 5)]
)
say("views", [list(one.keys()), list(one.values()), [list(pair) for pair in one.items()]])
say("public", [name for name in dir(C) if not name.startswith("_")])
attempt("equal", lambda: one == C(a=1, b=2))
attempt("unknown", lambda: one["x"], "a")
attempt("immutable", lambda: setattr(one, "a", 3))
attempt("dunder", lambda: C(__a=1), "cannot start with")
attempt("odd", lambda: C(**{"a b": 1})["a b"])
attempt("method names", lambda: [C(items=1)["items"], C(get=2)["get"], C(keys=3)["keys"]])
attempt(
    "kinds", lambda: [isinstance(one, ocp.args.CheckpointArgs), ocp.handlers.CompositeArgs is C]
)
attempt("hash", lambda: hash(one))
