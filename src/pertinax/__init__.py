"""Pertinax keeps the state of JAX training runs: it holds fast.

    import pertinax

    pertinax.save("runs/a", state)            # durable, checksummed, all or nothing
    state = pertinax.load("runs/a")           # exactly what was saved, every byte verified
    state = pertinax.load("runs/a", target)   # into these types, shapes and shardings

Training loops use `Manager`; programs written for Orbax use `pertinax.checkpoint`.
"""

from pertinax import errors as errors
from pertinax import policies as policies
from pertinax._core.describe import Description as Description
from pertinax._core.describe import describe as describe
from pertinax._core.load import load as load
from pertinax._core.pending import Pending as Pending
from pertinax._core.save import save as save
from pertinax._core.save import save_async as save_async
from pertinax._core.verify import Verification as Verification
from pertinax._core.verify import verify as verify
from pertinax._steps.manager import Manager as Manager
from pertinax._version import VERSION as __version__
