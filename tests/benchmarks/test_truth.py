"""Predictions held against everything that was recorded on GPUs; nothing else is asserted here."""

from pathlib import Path

import pytest
from truth_prediction import compared
from truth_records import ROOT, load_machine, load_trial

from bsprobe.simulate.history import load_history
from bsprobe.simulate.replay import replay_addresses

PATHS = sorted(ROOT.glob("*/trials/*.json.gz"))
NONE = pytest.param(None, marks=pytest.mark.skip(reason="no GPU has been recorded yet"))
each_trial = pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.name.removesuffix(".json.gz")) for path in PATHS] or [NONE]
)
LEAST_MATCHED = 0.99
LEAST_WORKSPACES = 0.99
"""The project's aim: cuDNN's choice as PyTorch makes it, in 99 of 100 convolutions."""


@each_trial
def test_every_block_lands_on_the_address_that_it_had_on_the_gpu(path: Path) -> None:
    if not load_trial(path).marks:
        pytest.skip("its history was not recorded: it was timed, or its process died")
    history = load_history(path)
    assert replay_addresses(history) == history.result


@pytest.mark.slow
@each_trial
def test_the_same_sizes_are_asked_for_in_the_same_order(path: Path) -> None:
    trial, machine = load_trial(path), load_machine(path.parents[1])
    if not trial.marks or trial.measurement is None or machine is None:
        pytest.skip("there is no history of a whole step")
    found = compared(path, trial, machine)
    first = [difference.describe() for difference in found.differences[:5]]
    assert found.matched >= LEAST_MATCHED * max(found.predicted, found.recorded), first
    assert found.workspaces_equal >= LEAST_WORKSPACES * found.convolutions, first
