# SPDX-License-Identifier: Apache-2.0
"""Specs for one path, and whether a spec is about another machine.

Knows the words of TensorStore's specs. Knows nothing of arrays.
"""

import os.path
from typing import Any, cast

from pertinax.checkpoint.serialization import tensorstore_utils
from pertinax.checkpoint.serialization.tensorstore_utils import JsonSpec

_REMOTE_DRIVERS = frozenset(("gcs", "gcs_grpc", "s3"))
_REMOTE_SCHEMES = ("gs://", "s3://")


def get_tensorstore_spec(ckpt_path: str, ocdbt: bool = False) -> JsonSpec:
    """The spec of a Zarr array at `ckpt_path`.

    With `ocdbt` the parent directory is a database, and the last part of the path a key in it.
    Raises `ValueError` for a relative path then, and for a cloud path that is only a bucket.
    """
    path = tensorstore_utils.normalized(str(ckpt_path))
    if not ocdbt:
        kvstore = tensorstore_utils.build_kvstore_tspec(path, use_ocdbt=False)
        return {"driver": tensorstore_utils.ZARR_VER2, "kvstore": kvstore}
    if is_remote_storage(path):
        tensorstore_utils.build_kvstore_tspec(path, use_ocdbt=False)  # it must name a key
    elif not os.path.isabs(path):
        raise ValueError(f"an OCDBT checkpoint path should be absolute: {ckpt_path!r}")
    directory, key = os.path.split(path)
    base = tensorstore_utils.base_of(directory)
    kvstore = {"driver": "ocdbt", "base": base, "path": key}
    return {"driver": tensorstore_utils.ZARR_VER2, "kvstore": kvstore}


def is_remote_storage(tspec: JsonSpec | str) -> bool:
    """Whether the spec or URL, at any depth, is about Google Cloud Storage or S3."""
    if isinstance(tspec, str):
        return tspec.startswith(_REMOTE_SCHEMES)
    if tspec.get("driver") in _REMOTE_DRIVERS:
        return True
    inner = (tspec.get(key) for key in ("base", "kvstore"))
    return any(
        is_remote_storage(cast("Any", part)) for part in inner if isinstance(part, dict | str)
    )
