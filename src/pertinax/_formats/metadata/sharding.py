# SPDX-License-Identifier: Apache-2.0
"""`_sharding`: how each array was laid out over devices.

Knows the file, whose values are JSON texts inside JSON. Knows nothing of what those say: they are
kept word for word.
"""

import base64
import binascii
import json
from collections.abc import Mapping

from pertinax._formats.meshes import WHOLE_UP_TO, without_ids
from pertinax._formats.metadata.text import Json

SHARDING_FILE = "_sharding"


def encode_sharding(texts: Mapping[str, str]) -> bytes:
    """`_sharding` from parameter names and the inner JSON texts.

    If they are very long, the ids of devices are left out: a reader takes the devices it has.
    """
    if sum(map(len, texts.values())) > WHOLE_UP_TO:
        shorter = {text: without_ids(text) for text in set(texts.values())}
        texts = {name: shorter[text] for name, text in texts.items()}
    pairs = {base64.urlsafe_b64encode(name.encode()).decode(): text for name, text in texts.items()}
    in_order = {key: pairs[key] for key in sorted(pairs)}
    return json.dumps(in_order, separators=(",", ":"), ensure_ascii=False).encode()


def decode_sharding(data: bytes, file: str = SHARDING_FILE) -> dict[str, str]:
    """The inner JSON texts by parameter name. Raises `CorruptCheckpoint` for anything that is no
    such file.
    """
    top = Json.parse(data, file)
    texts: dict[str, str] = {}
    for key, text in top.object().items():
        try:
            name = base64.b64decode(key.encode(), altchars=b"-_", validate=True).decode()
        except (binascii.Error, ValueError):
            top.corrupt(f"not the base64 of a name: {key!r:.80}")
        texts[name] = text.text()
    return texts
