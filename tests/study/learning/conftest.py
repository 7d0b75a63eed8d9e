from pathlib import Path

import pytest
import torch

from bsprobe.training import step
from tests.support.drawn import drawn
from tests.support.tiny_networks import TinyNet


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven drawn scenes, 5 for training and 2 for validation. Tests do not change them."""
    return drawn(tmp_path_factory.mktemp("data") / "scenes", 7, seed=4)


@pytest.fixture(autouse=True)
def _tiny_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(step, "build_model", TinyNet)
