# SPDX-License-Identifier: Apache-2.0
"""What a logger of checkpoint statistics must do. Knows nothing of where entries go."""

import abc
from typing import Any


class AbstractLogger(abc.ABC):
    """Takes entries: one for each save and each restore of a manager."""

    @abc.abstractmethod
    def log_entry(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """Take one entry."""
