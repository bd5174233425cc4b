# SPDX-License-Identifier: Apache-2.0
"""The legacy aggregate file: a tree, values and arrays included, in one MessagePack file.

Orbax wrote such files until 0.5.16 and still reads them; so do we. Knows nothing of items or of
what a leaf's text may refer to.
"""

from pertinax._formats.msgpack.encode import MAX_CHUNK_BYTES as MAX_CHUNK_BYTES
from pertinax._formats.msgpack.encode import encode as encode
from pertinax._formats.msgpack.values import Packed as Packed
from pertinax._formats.msgpack.values import decode as decode
from pertinax._formats.msgpack.values import materialize as materialize
