"""What the worker says of a failure."""

from pathlib import Path

import torch

from bsprobe import worker
from bsprobe.failures import Certainty, Outcome


def test_a_failure_is_described_without_the_folders_of_this_machine() -> None:
    try:
        torch.nn.Conv2d(3, 4, 3)(torch.zeros(1, 5, 8, 8))
    except RuntimeError as error:
        outcome, failure = worker.describe_failure(error, "step 1")
    assert (outcome, failure.certainty, failure.phase) == (
        Outcome.FAILED,
        Certainty.CERTAIN,
        "step 1",
    )
    assert failure.message.startswith("RuntimeError: Given groups=1")
    assert failure.traceback is not None
    assert 'File "torch/nn/modules/conv.py"' in failure.traceback
    for folder in (Path(torch.__file__).parents[1], Path(__file__).parents[1]):
        assert str(folder) not in failure.traceback
