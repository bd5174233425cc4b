"""Loggers of checkpoint statistics. Knows their names; knows nothing of managers."""

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
