from pathlib import Path

import pytest

from bsprobe.records.units import Resolution
from bsprobe.training.cityscapes.synthetic import write_sample_data

SIZE = Resolution(height=64, width=128)


@pytest.fixture(scope="session")
def drawn_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten drawn scenes, 8 for training and 2 for validation; tests only read them."""
    root = tmp_path_factory.mktemp("drawn") / "streets"
    write_sample_data(root, count=10, size=SIZE, seed=0, on_written=lambda _: None)
    return root
