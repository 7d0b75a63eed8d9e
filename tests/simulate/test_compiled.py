"""Compiled networks are predicted as if not compiled, and marked so."""

from dataclasses import replace
from pathlib import Path

import pytest

from bsprobe.devices.fitting import fit_cards
from bsprobe.devices.simulated import SimulatedDevice
from bsprobe.records.assumptions import Assumption
from bsprobe.records.explanations import Explanation
from bsprobe.records.gpus import find_gpu
from bsprobe.records.trials import Measurement, TrialSpec
from bsprobe.records.units import Resolution
from bsprobe.records.variants import Precision, Variant
from bsprobe.records.workload import OwnParts
from tests.support import commands

CARD = find_gpu("RTX 3090")
PARTS = "tests.support.compiled_networks"
AS_WRITTEN = (Assumption.NOT_COMPILED,)
PLACES = ["as_a_whole", "in_place", "a_module_inside", "a_module_inside_in_place", "a_function"]


def variant(network: str, optimizer: str | None = None) -> Variant:
    return Variant(
        model=f"{PARTS}:{network}",
        resolution=Resolution(height=64, width=96),
        precision=Precision.AMP_FP16,
        own=OwnParts(optimizer=None if optimizer is None else f"{PARTS}:{optimizer}"),
    )


def predicted(of: Variant, batch: int = 4) -> Measurement:
    spec = TrialSpec(variant=of, batch_size=batch)
    return SimulatedDevice(CARD, None).run_trial(spec, lambda _: None)


def explained(of: Variant) -> Explanation:
    spec = TrialSpec(variant=of, batch_size=4)
    return SimulatedDevice(CARD, None).explain(spec, lambda _: None, None)


def marked(found: Measurement) -> Measurement:
    return replace(found, model=replace(found.model, assumptions=AS_WRITTEN))


@pytest.fixture(scope="module")
def written() -> Measurement:
    return predicted(variant("written"))


def test_a_network_that_is_not_compiled_is_not_marked(written: Measurement) -> None:
    assert written.model.assumptions == ()


@pytest.mark.parametrize("place", PLACES)
def test_a_compiled_network_is_predicted_as_it_is_written(place: str, written: Measurement) -> None:
    assert predicted(variant(place)) == marked(written)


def test_a_compiled_optimizer_is_predicted_as_it_is_written() -> None:
    one, other = (
        predicted(variant("written", name)) for name in ("optimizer", "compiled_optimizer")
    )
    assert other == marked(one)


@pytest.mark.parametrize("place", PLACES)
def test_an_explanation_names_the_modules_as_they_are_written(place: str) -> None:
    one, other = explained(variant("written")), explained(variant(place))
    assert one.model is not None
    model = replace(one.model, assumptions=AS_WRITTEN)
    assert other == replace(one, spec=other.spec, model=model)


def test_fits_of_cards_are_marked_too() -> None:
    (one,), (other,) = (
        fit_cards([variant(name)], [CARD], max_batch=8) for name in ("written", "in_place")
    )
    assert (one.assumptions, other.assumptions) == ((), AS_WRITTEN)
    assert one.largest == other.largest == 8


@pytest.mark.nightly
def test_every_output_says_that_the_network_is_taken_as_not_compiled(tmp_path: Path) -> None:
    asked = (
        *("--gpu=RTX 3090", f"--model={PARTS}:in_place", "--resolution=64x64"),
        *("--norm=batch", "--max-batch=2"),
    )
    for command, report in (("run", "report.md"), ("explain", "explain.md")):
        done = commands.bsprobe(
            *(command, *asked, "--precision=fp32", f"--out={command}"), cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert Assumption.NOT_COMPILED in (tmp_path / command / report).read_text()
    done = commands.bsprobe(
        *("gpus", "--fit", f"--model={PARTS}:in_place", "--resolution=64x64", "--precision=fp32"),
        *("--norm=batch", "--out=fit"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert Assumption.NOT_COMPILED in done.stdout
    assert Assumption.NOT_COMPILED in (tmp_path / "fit" / "fit.md").read_text()
