from pathlib import Path

import pytest

from tests.support.drawn import drawn


@pytest.fixture(scope="session")
def drawn_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten drawn scenes, 8 for training and 2 for validation. Tests do not change them."""
    return drawn(tmp_path_factory.mktemp("drawn") / "streets", 10)
