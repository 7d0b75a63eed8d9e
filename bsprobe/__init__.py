"""bsprobe: find or predict the largest training batch that fits a GPU."""

from importlib import import_module
from typing import TYPE_CHECKING

from bsprobe._version import __version__ as __version__

if TYPE_CHECKING:
    from bsprobe.api import (
        Recommendation,
        Run,
        Target,
        Workload,
        find_executable_batch_size,
        predict,
        probe,
        recommend,
    )

__all__ = (
    "Recommendation",
    "Run",
    "Target",
    "Workload",
    "find_executable_batch_size",
    "predict",
    "probe",
    "recommend",
)


def __getattr__(name: str) -> object:
    """Import a public name from `bsprobe.api` on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("bsprobe.api"), name)
