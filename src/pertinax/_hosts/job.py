"""The job that this process belongs to.

Knows how to ask JAX for it. Knows nothing of saves.
"""

import jax

from pertinax._hosts.alone import Alone
from pertinax._hosts.contract import Hosts
from pertinax.errors import UnsupportedTopology


def this_job() -> Hosts:
    """The processes of this job. Raises `UnsupportedTopology` if there are several.

    Each of them would publish its own part as if it were the whole: no checkpoint is better.
    """
    if jax.process_count() == 1:
        return Alone()
    raise UnsupportedTopology(
        f"this job has {jax.process_count()} processes, and this version of pertinax saves jobs of "
        f"one process only: save with orbax-checkpoint, whose checkpoints pertinax.load reads"
    )
