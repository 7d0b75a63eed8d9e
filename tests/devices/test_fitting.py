"""The largest batch that fits each card."""

from dataclasses import replace
from pathlib import Path

import pytest

from bsprobe.devices.fitting import fit_cards
from bsprobe.devices.simulated import SimulatedDevice, Tracers
from bsprobe.records.failures import Outcome
from bsprobe.records.gpus import Gpu, custom_gpu
from bsprobe.records.trials import TrialSpec
from bsprobe.records.units import GIB, MIB, Resolution
from bsprobe.records.variants import Precision, Variant
from bsprobe.simulate.allocator.caching import SimulatedOutOfMemoryError

SMALL = Variant(model="deeplabv2-mini", resolution=Resolution(height=512, width=1024))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def card(capacity_bytes: int, capability: str = "8.6") -> Gpu:
    return custom_gpu(capacity_bytes, capability, 300 * MIB)


def runs(device: SimulatedDevice, variant: Variant, batch: int) -> bool:
    """Return whether a batch fits, as `bsprobe run --gpu` predicts it."""
    try:
        device.run_trial(TrialSpec(variant=variant, batch_size=batch), lambda _: None)
    except SimulatedOutOfMemoryError:
        return False
    return True


@pytest.mark.nightly
def test_each_card_gets_a_batch_that_runs_there_while_the_next_one_does_not() -> None:
    cards = [card(GIB), card(2 * GIB), card(3 * GIB, "7.5"), card(5 * GIB // 2)]
    variants = [SMALL, replace(SMALL, precision=Precision.AMP_FP16)]
    fits = list(fit_cards(variants, cards, max_batch=256))
    assert {(fit.variant, fit.gpu) for fit in fits} == {(v, c) for v in variants for c in cards}
    assert len(fits) == len(variants) * len(cards)
    tracers = Tracers()
    for fit in fits:
        device = SimulatedDevice(fit.gpu, None, tracers=tracers)
        assert fit.largest is not None
        assert runs(device, fit.variant, fit.largest)
        assert not runs(device, fit.variant, fit.largest + 1)
        assert fit.next_outcome is Outcome.OUT_OF_MEMORY


def test_a_card_that_no_batch_fits_has_no_largest_batch() -> None:
    (fit,) = fit_cards([SMALL], [card(310 * MIB)], max_batch=256)
    assert (fit.largest, fit.next_outcome) == (None, Outcome.OUT_OF_MEMORY)


def test_no_batch_above_the_maximum_is_tried() -> None:
    (fit,) = fit_cards([SMALL], [card(60 * GIB)], max_batch=4)
    assert (fit.largest, fit.next_outcome) == (4, None)
