# SPDX-License-Identifier: Apache-2.0
"""Loggers of checkpoint statistics. Knows their names; knows nothing of managers.

`cloud_logger` is here if `google-cloud-logging` is installed.
"""

import importlib.util
from typing import Any

from pertinax.checkpoint.logging import abstract_logger as abstract_logger
from pertinax.checkpoint.logging import composite_logger as composite_logger
from pertinax.checkpoint.logging import standard_logger as standard_logger
from pertinax.checkpoint.logging import step_statistics as step_statistics
from pertinax.checkpoint.logging.abstract_logger import AbstractLogger
from pertinax.checkpoint.logging.composite_logger import CompositeLogger
from pertinax.checkpoint.logging.standard_logger import StandardLogger
from pertinax.checkpoint.logging.step_statistics import (
    EmergencyRestoreStepStatistics,
    RestoreStepStatistics,
    SaveStepStatistics,
)

__all__ = [
    "AbstractLogger",
    "CompositeLogger",
    "EmergencyRestoreStepStatistics",
    "RestoreStepStatistics",
    "SaveStepStatistics",
    "StandardLogger",
]


def __getattr__(name: str) -> Any:
    # Not at import: the service's client is heavy, and few programs have it.
    if name == "cloud_logger" and _has_cloud_client():
        return importlib.import_module(f"{__name__}.cloud_logger")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _has_cloud_client() -> bool:
    try:
        return importlib.util.find_spec("google.cloud.logging") is not None
    except ModuleNotFoundError:
        return False
