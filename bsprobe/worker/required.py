"""The packages that bsprobe requires, and the error for a missing one."""

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
        "jinja2": "jinja2",
        "matplotlib": "matplotlib",
        "numpy": "numpy",
        "pandas": "pandas",
        "pynvml": "nvidia-ml-py",
        "rich": "rich",
        "torch": "torch",
        "torchvision": "torchvision",
    }
)
"""Names of packages in pip, by import name."""
_OF_REPORTS: Final = ("rich", "numpy", "pandas", "PIL", "matplotlib", "jinja2")
_MISSING: Final = re.compile(r"No module named '(\w+)'$", re.MULTILINE)
"""Python's message, which pandas repeats for its own requirements. A name with a dot does not
match: the package is installed and only a module in it is missing."""


def missing_package(words: str) -> MissingPackageError | None:
    """Find a missing required package in the message of an ImportError or in its traceback.

    Returns:
        The error to show, or None for any other failure.
    """
    for name in _MISSING.findall(words.strip()):
        if name in PACKAGES:
            return _missing(name)
    return None


def require_report_packages() -> None:
    """Check that the packages for reports are installed, without importing them.

    Raises:
        MissingPackageError: A package is missing.
    """
    for name in _OF_REPORTS:
        if not _is_there(name):
            raise _missing(name)


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:  # raised by an import hook
        return False


def _missing(name: str) -> MissingPackageError:
    return MissingPackageError(
        f"the required package {PACKAGES[name]} is not installed",
        hint=f"python -m pip install {PACKAGES[name]}",
    )
