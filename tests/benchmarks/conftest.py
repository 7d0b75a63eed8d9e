"""What several tests of the benchmarks need."""

from pathlib import Path

import pytest

from bsprobe.simulate.trace import fake_model
from tests.support.tiny_networks import TinyNet


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A tiny network in the place of every other, and cuDNN's answers in a folder of the test."""
    monkeypatch.setattr(fake_model, "build_model", TinyNet)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
