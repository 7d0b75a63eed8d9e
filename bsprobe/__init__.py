"""bsprobe: what batch size fits a GPU, and what to train with then."""

from importlib import import_module
from typing import TYPE_CHECKING

from bsprobe._version import __version__ as __version__

if TYPE_CHECKING:
    from bsprobe.api import Workload, predict, probe, recommend
    from bsprobe.executable_batch import find_executable_batch_size
    from bsprobe.records.runs import Recommendation, Run, Target

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
_MODULES = {
    "Recommendation": "records.runs",
    "Run": "records.runs",
    "Target": "records.runs",
    "find_executable_batch_size": "executable_batch",
}
"""Where the public names are that are not in `api`; each is imported when it is first used."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'api')}"), name)
