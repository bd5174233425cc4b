# SPDX-License-Identifier: Apache-2.0
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from saying import attempt

root = epath.Path(sys.argv[1])
handler = ocp.StandardCheckpointHandler()
args = ocp.args


def cycle(name, tree, target=None, **more):
    def run():
        handler.save(root / name, tree)
        handler.finalize(root / name)
        return handler.restore(root / name, target, **more)

    (root / name).mkdir()
    return run


kinds = {
    "int": 1,
    "float": 1.5,
    "bool": True,
    "float64": np.float64(2),
    "numpy": np.arange(2),
    "jax": jnp.arange(2),
    "none": None,
    "dict": {},
    "list": [],
    "tuple": (),
}
for name, value in kinds.items():
    attempt(name, cycle(name, {"a": value, "z": 1}))
for name, value in {
    "str": "x",
    "bytes": b"x",
    "struct": jax.ShapeDtypeStruct((2,), np.float32),
    "object": object(),
}.items():
    attempt(
        name,
        cycle(name, {"a": value, "z": 1}),
        "Unsupported type" if name in ("str", "bytes") else "",
    )
attempt("no item", lambda: handler.save(root / "x"))
attempt("empty", lambda: handler.save(root / "x", {}), "Found empty item")
attempt("args in place", lambda: handler.save(root / "x", args.StandardSave({"a": 1})), "args=")
attempt("state", lambda: handler.save(root / "x", state={"a": 1}))
attempt(
    "aggregate",
    lambda: handler.save(root / "x", {"a": 1}, {"a": ocp.SaveArgs(aggregate=True)}),
    "Unsupported option",
)
tree = {"j": jnp.arange(4.0), "n": np.arange(3), "i": 7, "f": 0.5, "t": (1, [2])}
attempt("no target", cycle("whole", tree))
attempt("target", lambda: handler.restore(root / "whole", tree))
shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
attempt("structs", lambda: handler.restore(root / "whole", shapes))
attempt("by args", lambda: handler.restore(root / "whole", args=args.StandardRestore(tree)))
attempt(
    "args in place", lambda: handler.restore(root / "whole", args.StandardRestore(tree)), "args="
)
half = dict(tree, j=jnp.zeros(4, jnp.bfloat16), n=np.zeros(3, np.float32))
attempt(
    "dtypes",
    lambda: [
        str(x.dtype) for k, x in sorted(handler.restore(root / "whole", half).items()) if k in "jn"
    ],
)
attempt("missing key", lambda: handler.restore(root / "whole", {"j": tree["j"]}))
attempt(
    "text target", lambda: handler.restore(root / "whole", dict(tree, i="x")), "Unsupported type"
)
longer = dict(tree, j=jnp.zeros(6))
attempt("strict", lambda: handler.restore(root / "whole", longer))
attempt(
    "padded",
    lambda: handler.restore(root / "whole", args=args.StandardRestore(longer, strict=False)),
)
attempt(
    "cut",
    lambda: handler.restore(
        root / "whole", args=args.StandardRestore(dict(tree, j=jnp.zeros(2)), strict=False)
    ),
)
attempt("nowhere", lambda: handler.restore(root / "nowhere"))
attempt("metadata", lambda: sorted(handler.metadata(root / "whole")))
