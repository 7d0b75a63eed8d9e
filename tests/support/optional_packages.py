"""Packages that only tests need: without them tests are skipped, except under CI."""

import importlib.util
import os
import re
from collections.abc import Iterable
from typing import Final

import pytest

PACKAGES: Final = {
    "cityscapesscripts": "cityscapesscripts",
    "hatchling": "hatchling",
    "hypothesis": "hypothesis",
    "importlinter": "import-linter",
    "pytest": "pytest",
    "segmentation_models_pytorch": "segmentation-models-pytorch",
    "timm": "timm",
    "transformers": "transformers",
    "xdist": "pytest-xdist",
    "yaml": "pyyaml",
}
"""Import names and the package names in the extra `test`."""
_MISSING: Final = re.compile(r"No module named '(\w+)")


def is_there(name: str) -> bool:
    """True if a package can be imported; does not import it."""
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


def may_be_skipped() -> bool:
    """True if tests may be skipped because of a missing package: CI installs all of them."""
    return os.environ.get("CI") != "true"


needs_smp = pytest.mark.skipif(
    not is_there("segmentation_models_pytorch"), reason="segmentation-models-pytorch is missing"
)
needs_transformers = pytest.mark.skipif(
    not is_there("transformers"), reason="transformers is not installed"
)
needs_timm = pytest.mark.skipif(not is_there("timm"), reason="timm is not installed")
needs_import_linter = pytest.mark.skipif(
    not is_there("importlinter"), reason="import-linter is not installed"
)


class ModuleWithOptionalPackages(pytest.Module):
    """A test module that is skipped if it cannot import a package of the extra `test`."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """Import the module and collect its tests."""
        try:
            return super().collect()
        except self.CollectError as error:
            cause = error.__cause__
            found = _MISSING.search(str(cause)) if isinstance(cause, ModuleNotFoundError) else None
            if found is None or found[1] not in PACKAGES or not may_be_skipped():
                raise
            pytest.skip(f"{PACKAGES[found[1]]} is not installed", allow_module_level=True)
