"""Scripts with records from inside."""

from pathlib import Path

import pytest

from tests.support.inside import Scripts


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    """A folder with a stub of PyTorch, in which scripts run."""
    return Scripts(tmp_path)
