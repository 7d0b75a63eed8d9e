"""A reference run without faults."""

import time
from pathlib import Path

import pytest

from tests.support.stubbed_bsprobe import RUN, finish, start


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The folder of a run without faults, and its seconds."""
    place = tmp_path_factory.mktemp("reference")
    started = time.monotonic()
    code, _, complaints = finish(start(*RUN, cwd=place))
    assert code == 0, complaints
    return place / "out", time.monotonic() - started


@pytest.fixture(scope="session")
def reference(undisturbed: tuple[Path, float]) -> Path:
    """The folder of a run without faults."""
    return undisturbed[0]
