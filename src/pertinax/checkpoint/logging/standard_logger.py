# SPDX-License-Identifier: Apache-2.0
"""Entries for the log of the program. Knows the standard `logging`; knows nothing of entries."""

import logging
from typing import Any

from pertinax.checkpoint.logging.abstract_logger import AbstractLogger


class StandardLogger(AbstractLogger):
    """Writes each entry as one line at level INFO."""

    def log_entry(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """Write one entry."""
        logging.getLogger(__name__).info(msg, *args, **kwargs)
