import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore  # type: ignore[attr-defined] # documented, but not marked as exported

from bsprobe.devices.stepping import TooFewUpdatesError, run_steps
from bsprobe.records.errors import UsageError
from bsprobe.records.failures import Outcome
from bsprobe.records.trials import (
    Ddp,
    Measurement,
    ModelFacts,
    Peak,
    TrialSpec,
    Validated,
    Validation,
)
from bsprobe.records.units import MIB, Resolution
from bsprobe.records.variants import CudnnBenchmark, Norm, Precision, Variant
from bsprobe.training import step
from tests.support.tiny_networks import VARIANT, OverflowingNet, TinyNet

SPEC = TrialSpec(variant=VARIANT, batch_size=2)
FP16_SPEC = replace(SPEC, variant=replace(VARIANT, precision=Precision.AMP_FP16))
FACTS = ModelFacts(parameters=660, groups=(("all", 1.0),), batch_norms=1)


@dataclass(slots=True)
class FakeDevice:
    """Meter, clock and reporter in one; each peak is a byte higher than the one before.

    Attributes:
        step_seconds: Seconds of the measured steps.
        found_retries: Successive results of `retries`; the last one repeats.
        found_held: Successive results of `held`; the last one repeats.
        told: The phases and calls, in order.
        models: The networks that were built.
    """

    step_seconds: tuple[float, ...] = (0.5, 0.25, 1.0)
    found_retries: list[int] = field(default_factory=lambda: [0])
    found_held: list[int] = field(default_factory=lambda: [7])
    told: list[str] = field(default_factory=list)
    models: list[TinyNet] = field(default_factory=list)

    def reset_peak(self) -> None:
        self.told.append("reset peak")

    def peak(self) -> Peak:
        self.told.append("peak")
        return peak(self.told.count("peak"))

    def retries(self) -> int:
        return self.found_retries.pop(0) if len(self.found_retries) > 1 else self.found_retries[0]

    def completed(self, measured: Measurement) -> Measurement:
        assert measured.validation is None  # the facts of the device are of the training
        return measured

    def lift_limit(self) -> None:
        self.told.append("limit lifted")

    def held(self) -> int:
        return self.found_held.pop(0) if len(self.found_held) > 1 else self.found_held[0]

    def start(self) -> None:
        self.told.append("start")

    def stop(self) -> None:
        self.told.append("stop")

    def seconds(self) -> tuple[float, ...]:
        self.told.append("seconds")
        return self.step_seconds

    def run(self, spec: TrialSpec) -> Measurement:
        return run_steps(
            spec,
            device=torch.device("cpu"),
            meter=self,
            new_clock=lambda: self,
            report=self.told.append,
        )


def peak(count: int) -> Peak:
    return Peak(allocated_bytes=count, reserved_bytes=None)


Overflowing = Callable[[int, int], FakeDevice]


@pytest.fixture
def overflowing(monkeypatch: pytest.MonkeyPatch) -> Overflowing:
    """Make a device whose networks overflow in backward passes `first` to `last`."""

    def make(first: int, last: int) -> FakeDevice:
        device = FakeDevice()

        def build(variant: Variant) -> TinyNet:
            overflows = frozenset(range(first, last + 1))
            device.models.append(OverflowingNet(variant, overflows=overflows))
            return device.models[-1]

        monkeypatch.setattr(step, "build_model", build)
        return device

    return make


@pytest.fixture
def fake(overflowing: Overflowing) -> FakeDevice:
    return overflowing(1, 0)


@pytest.fixture(autouse=True)
def _global_settings_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)


def test_the_first_step_has_its_own_peak_and_warm_up_is_not_timed(fake: FakeDevice) -> None:
    fake.run(replace(SPEC, warmup_steps=2))

    assert fake.told == [
        *("building", "reset peak", "step 1", "peak"),
        *("reset peak", "step 2"),
        *("step 3", "start", "stop", "step 4", "start", "stop", "step 5", "start", "stop"),
        "seconds",
        "peak",
    ]


def test_a_measurement_has_peaks_steps_and_throughput(fake: FakeDevice) -> None:
    assert fake.run(SPEC) == Measurement(
        model=FACTS,
        first_step=peak(1),
        steady=peak(2),
        updates_applied=4,
        steps=4,
        allocated_after_steps=(7, 7, 7, 7),
        step_seconds=(0.5, 0.25, 1.0),
        images_per_second=2 / 0.5,
    )


@pytest.mark.parametrize(
    ("retries", "steps"),
    [
        ([0], 4),
        ([2, 2], 5),  # the last of the four steps may have flushed
        ([2, 3, 5, 5], 7),
        (list(range(1, 99)), 12),  # a flush in every step: the maximum number of steps
    ],
)
def test_a_trial_runs_more_steps_until_one_does_not_flush_the_cache(
    fake: FakeDevice, retries: list[int], steps: int
) -> None:
    fake.found_retries = retries
    measured = fake.run(SPEC)
    assert (measured.steps, measured.step_seconds) == (steps, fake.step_seconds)
    untimed = [f"step {number}" for number in range(5, steps + 1)]
    assert fake.told[fake.told.index("seconds") :] == ["seconds", *untimed, "peak"]


@pytest.mark.parametrize(
    ("held_mib", "steps"),
    [
        ([0, 0, 0, 0], 4),
        ([0, 7, 7, 7], 4),  # within the noise of a CPU
        ([0, 40, 40, 40], 4),
        ([0, 0, 0, 40, 40], 4),
        ([0, 10, 20, 30, 40, 40], 9),  # the last five outputs
        ([20 * step for step in range(99)], 24),
    ],
)
def test_a_trial_runs_more_steps_while_memory_seems_to_grow(
    fake: FakeDevice, held_mib: list[int], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected: list[None] = []  # cycles of references are not growth
    monkeypatch.setattr(gc, "collect", lambda: collected.append(None))
    fake.found_held = [each * MIB for each in held_mib]
    measured = fake.run(SPEC)
    ends = [*held_mib, *[held_mib[-1]] * steps][:steps]
    assert (measured.steps, len(collected)) == (steps, steps - 4)
    assert measured.allocated_after_steps == tuple(each * MIB for each in ends)
    assert measured.step_seconds == fake.step_seconds


def test_a_trial_of_two_steps_runs_on_if_the_second_holds_more(
    fake: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc, "collect", lambda: 0)
    fake.found_held = [20 * MIB * step for step in range(99)]
    assert fake.run(replace(SPEC, measured_steps=1)).steps == 24


VALIDATED = replace(
    SPEC,
    validation=Validation(resolution=Resolution(height=64, width=96), batch_size=3),
    measured_steps=1,
)


def test_a_validation_follows_the_steps_with_its_own_images_and_its_own_peak(
    fake: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []

    def keep(*args: Any) -> None:
        shapes.append(tuple(args[1].shape))
        shapes.append(tuple(step.evaluation_pass(*args).shape))

    monkeypatch.setattr("bsprobe.devices.stepping.evaluation_pass", keep)
    measured = fake.run(VALIDATED)
    peaks = (measured.first_step, measured.steady, measured.validation)
    assert peaks == (peak(1), peak(2), Validated(peak=peak(3)))
    assert fake.told[-4:] == ["peak", "validation", "reset peak", "peak"]
    assert shapes == [(3, 3, 64, 96), (3, 64, 96)]
    assert [model.calls for model in fake.models] == [2 + 1]  # two steps and the validation


def test_a_validation_that_runs_out_of_memory_keeps_what_was_measured_before(
    fake: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr("bsprobe.devices.stepping.evaluation_pass", fail)
    measured = fake.run(VALIDATED)
    assert (measured.steady, measured.steps) == (peak(2), 2)
    tried = measured.validation
    assert tried is not None
    assert (tried.fits, tried.outcome) == (False, Outcome.OUT_OF_MEMORY)
    assert tried.failure is not None
    assert (tried.failure.phase, tried.failure.message) == ("validation", "MemoryError: no more")
    assert fake.told[-1] == "limit lifted"


@pytest.mark.parametrize(
    ("warmup", "measured", "steps"),
    [(1, 3, 4), (0, 1, 2), (1, 1, 2), (3, 5, 8)],
)
def test_the_requested_steps_run_and_at_least_two_updates(
    fake: FakeDevice, warmup: int, measured: int, steps: int
) -> None:
    result = fake.run(replace(SPEC, warmup_steps=warmup, measured_steps=measured))

    assert (result.steps, result.updates_applied) == (steps, steps)
    assert fake.told.count("start") == fake.told.count("stop") == measured


def test_accumulation_runs_each_micro_batch_and_counts_all_images(fake: FakeDevice) -> None:
    result = fake.run(replace(SPEC, accumulation_steps=5))

    assert (result.steps, result.updates_applied, result.images_per_second) == (4, 4, 10 / 0.5)
    assert fake.models[0].calls == 4 * 5


@pytest.mark.parametrize(
    ("first", "last", "steps", "updates", "told"),
    [
        # Timing waits for the first update.
        (1, 3, 7, 4, ["step 4", "step 5", "start", "stop", "step 6"]),
        # Steps follow the timed ones until a second update is applied.
        (2, 5, 6, 2, ["step 4", "start", "stop", "seconds", "step 5", "step 6", "peak"]),
        (1, 20, 24, 4, ["step 21", "step 22", "start"]),
    ],
)
def test_a_trial_may_skip_twenty_updates_and_times_steps_once_one_is_applied(
    first: int, last: int, steps: int, updates: int, told: list[str], overflowing: Overflowing
) -> None:
    fake = overflowing(first, last)

    result = fake.run(FP16_SPEC)

    assert (result.steps, result.updates_applied) == (steps, updates)
    at = fake.told.index(told[0])
    assert fake.told[at : at + len(told)] == told


def test_a_scaler_that_always_skips_ends_the_trial(overflowing: Overflowing) -> None:
    fake = overflowing(1, 1000)

    with pytest.raises(TooFewUpdatesError) as caught:
        fake.run(FP16_SPEC)

    assert "GradScaler skipped 21 of 21" in str(caught.value)
    assert fake.told[-1] == "step 21"


@pytest.mark.parametrize("choice", CudnnBenchmark)
def test_cudnn_times_its_algorithms_only_if_the_variant_says_so(
    fake: FakeDevice, choice: CudnnBenchmark
) -> None:
    torch.backends.cudnn.benchmark = choice is CudnnBenchmark.OFF

    fake.run(replace(SPEC, variant=replace(VARIANT, cudnn_benchmark=choice)))

    assert torch.backends.cudnn.benchmark is (choice is CudnnBenchmark.ON)


def test_equal_trials_see_equal_images(fake: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    forward = OverflowingNet.forward

    def keep(net: OverflowingNet, images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return forward(net, images)

    monkeypatch.setattr(OverflowingNet, "forward", keep)
    for seed in (0, 0, 1):
        fake.run(replace(SPEC, measured_steps=1, seed=seed))

    assert [torch.equal(images, seen[0]) for images in seen] == [True] * 4 + [False] * 2


@pytest.mark.parametrize("norm", [Norm.BATCH, Norm.GROUP, Norm.FROZEN])
def test_the_facts_count_the_batch_norms_that_see_batches(norm: Norm) -> None:
    size = Resolution(height=64, width=64)
    variant = Variant(model="deeplabv2-mini", resolution=size, norm=norm)
    task = step.build_task(variant, torch.device("cpu"))
    built = [each for each in task.model.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    assert bool(built) is (norm is Norm.BATCH)
    assert step.facts_of(task, variant).batch_norms == len(built)
    task.model.eval()  # as in a user's network that freezes their statistics
    assert step.facts_of(task, variant).batch_norms == 0


def test_the_facts_of_deeplabv2_name_its_three_groups() -> None:
    variant = replace(
        VARIANT, model="deeplabv2-resnet50", resolution=Resolution(height=32, width=32), classes=19
    )

    result = FakeDevice().run(replace(SPEC, variant=variant, batch_size=1, measured_steps=1))

    assert result.model == ModelFacts(
        parameters=24_908_940,
        groups=(("backbone", 1.0), ("classifier weights", 10.0), ("classifier biases", 20.0)),
        batch_norms=53,
    )


@pytest.fixture
def group_of_one() -> Iterator[None]:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def together(ddp: Ddp) -> TrialSpec:
    """A trial of one of two processes, with a network that has an unused parameter."""
    model = "tests.support.networks_without_gradients:Reentrant"
    variant = replace(VARIANT, model=model)
    return replace(SPEC, variant=variant, processes=2, ddp=ddp)


@pytest.mark.usefixtures("group_of_one")
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
@pytest.mark.parametrize("ddp", Ddp)
def test_parameters_without_gradients_stop_processes_that_are_not_told_of_them(ddp: Ddp) -> None:
    if ddp is Ddp.DEFAULT:
        with pytest.raises(UsageError) as refused:
            FakeDevice().run(together(ddp))
        named = "block.0.weight, block.0.bias, block.1.weight and 1 more"
        assert named in str(refused.value)
        assert "--ddp find-unused-parameters" in str(refused.value.hint)
        assert "--ddp static-graph" in str(refused.value.hint)
    else:
        found = FakeDevice().run(together(ddp))
        assert found.model.parameters_without_gradient == 4
        assert found.updates_applied == 4
