"""The decorator on a real GPU: `pytest -m gpu`."""

from pathlib import Path

import pytest

from tests.support.commands import python

pytestmark = pytest.mark.gpu

TRAINING = """
import torch

import bsprobe
from tests.support import own_training

WORKLOAD = bsprobe.Workload(
    model=own_training.network,
    optimizer=own_training.adam,
    batch=own_training.batch,
    loss=own_training.loss,
)


@bsprobe.find_executable_batch_size(WORKLOAD, memory_limit="2GiB", starting_batch_size=2048)
def train(batch_size):
    network = own_training.network().cuda()
    optimizer = own_training.adam(network)
    inputs, targets = (each.cuda() for each in own_training.batch(batch_size))
    for _ in range(2):
        own_training.loss(network(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    return batch_size, torch.cuda.max_memory_reserved()


if __name__ == "__main__":
    print(*train())
"""


def test_a_function_trains_with_the_proven_batch_and_a_second_process_reuses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "training.py").write_text(TRAINING)
    first, second = (python("training.py", cwd=tmp_path, timeout=300) for _ in range(2))
    assert first.returncode == 0, first.stderr
    batch, reserved = map(int, first.stdout.split())
    assert batch > 64
    assert reserved <= 2 << 30
    assert "batch" in first.stderr  # one line per trial
    assert second.stdout.split()[0] == str(batch)
    assert second.stderr == ""
