"""Fixtures shared by the tests of the benchmarks."""

from pathlib import Path

import pytest

from bsprobe.simulate.trace import fake_model
from tests.support.tiny_networks import TinyNet


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Replace every network by a tiny one, and keep cuDNN's answers in a temporary folder."""
    monkeypatch.setattr(fake_model, "build_model", TinyNet)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
