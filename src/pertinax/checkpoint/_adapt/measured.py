# SPDX-License-Identifier: Apache-2.0
"""What was measured at a step, as a manager has stored it.

Knows the item of metrics. Knows nothing of which numbers are good.
"""

import logging
from typing import Any, Final

from etils import epath

from pertinax._core.places import locate
from pertinax._steps.history import read_metrics
from pertinax.checkpoint._adapt.manager_items import METRIC_ITEM_NAME
from pertinax.errors import CheckpointNotFound, CorruptCheckpoint

_LOG: Final = logging.getLogger(__name__)


def stored_metrics(step: epath.Path) -> Any:
    """The metrics of the step that lies there; None if it has none.

    Raises `CorruptCheckpoint` if it has some that cannot be read.
    """
    store, path = locate(step)
    try:
        return read_metrics(store, path)
    except (CheckpointNotFound, CorruptCheckpoint) as error:
        if store.stat(f"{path}/{METRIC_ITEM_NAME}/{METRIC_ITEM_NAME}") is not None:
            raise
        _LOG.warning("there are no metrics path=%s: %s", path, error)
        return None
