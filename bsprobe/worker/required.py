"""The packages that bsprobe requires: which one is missing, and how it is installed."""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import Final

from bsprobe.records.errors import MissingPackageError

PACKAGES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "PIL": "pillow",
        "click": "click",
        "matplotlib": "matplotlib",
        "numpy": "numpy",
        "pandas": "pandas",
        "pynvml": "nvidia-ml-py",
        "rich": "rich",
        "torch": "torch",
        "torchvision": "torchvision",
    }
)
"""Names to import, and the names under which pip installs them."""
_OF_REPORTS: Final = ("rich", "numpy", "pandas", "PIL", "matplotlib")
_MISSING: Final = re.compile(r"No module named '(\w+)'$", re.MULTILINE)
"""Python's words, which pandas repeats for what it needs itself. A module inside a package has a
name with a dot: where that is missing, the package is there, and it is no matter of installing."""


def missing_package(words: str) -> MissingPackageError | None:
    """Read what an ImportError, or the end of its traceback, says.

    Returns:
        The error to show for a missing package that bsprobe requires; None for any other failure.
    """
    for name in _MISSING.findall(words.strip()):
        if name in PACKAGES:
            return _missing(name)
    return None


def require_report_packages() -> None:
    """Refuse to begin what ends in a report that cannot be made; nothing is imported.

    Raises:
        MissingPackageError: A package is missing.
    """
    for name in _OF_REPORTS:
        if not _is_there(name):
            raise _missing(name)


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:  # of a finder that does not answer but refuses
        return False


def _missing(name: str) -> MissingPackageError:
    return MissingPackageError(
        f"the package {PACKAGES[name]} is not installed, which bsprobe requires",
        hint=f"python -m pip install {PACKAGES[name]}",
    )
