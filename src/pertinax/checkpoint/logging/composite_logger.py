# SPDX-License-Identifier: Apache-2.0
"""Entries for several loggers. Knows nothing of what they do with them."""

import logging
from typing import Any

from pertinax.checkpoint.logging.abstract_logger import AbstractLogger


class CompositeLogger(AbstractLogger):
    """Hands each entry to all of its loggers. What is no logger, or again several, is left out."""

    def __init__(self, *loggers: AbstractLogger) -> None:
        self._loggers: list[AbstractLogger] = []
        for one in loggers:
            if isinstance(one, AbstractLogger) and not isinstance(one, CompositeLogger):
                self._loggers.append(one)
            else:
                logging.getLogger(__name__).warning("left out, not a single logger: %r", one)

    def log_entry(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """Hand over one entry, to all of them also if one fails; its failure is raised then."""
        failures: list[Exception] = []
        for one in self._loggers:
            try:
                one.log_entry(msg, *args, **kwargs)
            except Exception as error:  # noqa: BLE001 - raised below, when the others have heard
                failures.append(error)
        if failures:
            raise failures[0]
