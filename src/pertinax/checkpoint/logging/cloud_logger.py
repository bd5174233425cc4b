# SPDX-License-Identifier: Apache-2.0
"""Entries for Google Cloud Logging.

Knows its client, which comes with the package `google-cloud-logging` and is imported when a logger
without a client of its own is made. Knows nothing of entries.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pertinax.checkpoint.logging.abstract_logger import AbstractLogger

_SEVERITIES: Final = frozenset({"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})


@dataclass
class CloudLoggerOptions:
    """Where entries go.

    Attributes:
        job_name: stands in each entry.
        logger_name: the log of the project that they go to.
        client: a `google.cloud.logging.Client`; None: one is made for the default project.
        checkpoint_metadata: what else shall stand in each entry, under this name.
    """

    job_name: str = "checkpoint_job"
    logger_name: str = "checkpoint_logger"
    client: Any = None
    checkpoint_metadata: Any = None


class CloudLogger(AbstractLogger):
    """Writes each entry as a structured one.

    Raises `ImportError` if it has to make its client and `google-cloud-logging` is not installed.
    """

    def __init__(self, options: CloudLoggerOptions | None = None) -> None:
        self._options = options or CloudLoggerOptions()
        client = self._options.client
        if client is None:
            client = importlib.import_module("google.cloud.logging").Client()
        self._logger: Any = client.logger(self._options.logger_name)

    def log_entry(
        self, entry: Mapping[str, Any], severity: str = "INFO", *args: Any, **kwargs: Any
    ) -> None:
        """Write one entry. A `severity` that the service does not know counts as INFO."""
        fields = {**entry, "job_name": self._options.job_name}
        if self._options.checkpoint_metadata is not None:
            fields["checkpoint_metadata"] = self._options.checkpoint_metadata
        known = severity.upper() if severity.upper() in _SEVERITIES else "INFO"
        self._logger.log_struct(fields, severity=known)
