"""The catalogue of GPUs: what its lines must hold, and how a card is found by name."""

import pytest

from bsprobe.errors import UsageError
from bsprobe.gpus import DEFAULT_GPU, catalogue, custom_gpu, find_gpu
from bsprobe.units import GIB


def test_names_are_unique() -> None:
    names = [gpu.name for gpu in catalogue()]
    assert len(set(names)) == len(names)


def test_the_default_is_in_the_catalogue() -> None:
    assert find_gpu(DEFAULT_GPU).name == DEFAULT_GPU


@pytest.mark.parametrize("capability", ["8.7", "86", "", "sm_86"])
def test_an_unknown_compute_capability_is_refused(capability: str) -> None:
    with pytest.raises(UsageError, match="--compute-capability"):
        custom_gpu(20 * GIB, capability)
