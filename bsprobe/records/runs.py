"""Everything a run knows, from what was asked to what follows: frozen, JSON-able.

Bytes are bytes and seconds are seconds here; they become "GiB" in `units` alone.
"""

from dataclasses import dataclass
from enum import StrEnum

from bsprobe.records.assumptions import Assumption
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.gpus import Gpu
from bsprobe.records.trials import DataSource, Ddp, Source, Trial, TrialSpec
from bsprobe.records.units import MIB, Resolution
from bsprobe.records.variants import Variant

SCHEMA_VERSION = 1
"""The version of run files and journals; loaders reject any other."""
MAX_BATCH = 4096
"""No larger batch is tried unless one is asked for."""
TRIAL_TIMEOUT_SECONDS = 900.0
"""A trial that takes longer has failed, unless more is asked for."""
SMALLEST_CAPACITY_CHANGE_BYTES = 64 * MIB
"""Capacities that differ by less are equal. Without a memory limit, the capacity of a GPU is its
total less what other processes hold, which changes by a few MiB with each window that is opened.
Another process that computes holds more: the smallest CUDA context takes about 100 MiB."""


class SearchMethod(StrEnum):
    """The way in which the boundary is looked for; its proof is the same."""

    ORDINARY = "ordinary"
    """Doubling until it fails, then closing in."""
    GUIDED = "guided"
    """Begin where a prediction for the GPU says that it is."""


class StopReason(StrEnum):
    """The reason why the search for a variant's largest batch ended."""

    PROVEN = "proven"
    """The largest batch ran and the next failed for want of memory, each in a fresh process."""
    KERNEL_LIMIT = "kernel limit"
    """As proven, but the next batch met a 32-bit limit, not the end of the memory."""
    NOTHING_FITS = "nothing fits"
    MAX_BATCH = "max batch"
    TIME = "time"
    HOST_MEMORY = "host memory"
    """The machine's memory ended, not the card's: the boundary is not known."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRequest:
    """The device that the command line asks for."""

    device: str | None = None
    """`cpu`, `cuda`, `cuda:1`, or None: the GPU of the machine, if it has one."""
    memory_limit_bytes: int | None = None
    gpu: Gpu | None = None
    """The card to predict for; None: none is named."""
    rank_limits_bytes: tuple[int, ...] = ()
    """With several processes: the memory limit of each, by rank, where they were given apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """The device that answers, and how much memory a trial may take there."""

    kind: DeviceKind
    name: str
    source: Source
    total_bytes: int
    """All memory of the device as PyTorch reports it, whoever holds it."""
    capacity_bytes: int
    """The bytes that one trial may hold, inside and outside PyTorch's allocator."""
    limit_bytes: int | None = None
    """The limit that was asked for, or None where the device's own memory is the limit."""
    is_assumed: bool = False
    """True where nobody named this card: there is no GPU here, and it is predicted by default."""
    other_processes_bytes: int | None = None
    """Held by other processes when the device was opened, or None where it cannot be told."""
    compute_capability: str | None = None
    driver: str | None = None
    tf32_convolutions: bool | None = None
    tf32_matmuls: bool | None = None
    notes: tuple[str, ...] = ()
    """Sentences about the device that a reader of the results must know."""

    @property
    def capability(self) -> tuple[int, int] | None:
        """The compute capability as two numbers; None of a CPU."""
        if self.compute_capability is None:
            return None
        major, minor = self.compute_capability.split(".")
        return int(major), int(minor)

    def has_memory_of(self, other: "DeviceInfo") -> bool:
        """True where both have the same memory limit, and capacities that count as equal."""
        return self.limit_bytes == other.limit_bytes and is_same_capacity(
            self.capacity_bytes, other.capacity_bytes
        )


def is_same_capacity(one: int, two: int) -> bool:
    """True where two capacities in bytes differ by too little to count."""
    return abs(one - two) < SMALLEST_CAPACITY_CHANGE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The place and the programs with which a run was made."""

    bsprobe: str
    commit: str | None
    command: str
    started_at: str
    """ISO 8601, UTC."""
    python: str
    platform: str
    torch: str
    torchvision: str | None
    cuda: str | None
    cudnn: str | None
    cuda_alloc_conf: str | None
    cpu_threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """The batch at which a variant stops fitting, and how well that is known."""

    stop: StopReason
    largest: int | None = None
    """The largest batch that ran, or None."""
    first_failure: int | None = None
    """The smallest batch above it that did not run, or None."""
    detail: str = ""
    """One sentence where the stop reason alone does not explain itself."""

    @property
    def is_exact(self) -> bool:
        """True where batch B ran and B+1 failed, each in a process of its own."""
        return self.stop in (StopReason.PROVEN, StopReason.KERNEL_LIMIT)

    @property
    def has_failed(self) -> bool:
        """True where the search ended with a failure that says nothing of its batch."""
        return self.stop in (StopReason.FAILED, StopReason.HOST_MEMORY)

    @property
    def is_known(self) -> bool:
        """True where a batch is known to be the largest, or to be no larger than it; or none."""
        return not self.has_failed and (
            self.largest is not None or self.stop is StopReason.NOTHING_FITS
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The recipe that the user trains by: batch and learning rate are scaled from it.

    What is None is taken from the recipe of the network, where it has one (`recipe_of`).
    """

    batch: int | None = None
    """Wanted effective batch; None: the best batch that fits, without accumulation."""
    base_batch: int | None = None
    """The effective batch that the rate belongs to."""
    base_learning_rate: float | None = None
    """None: the rate is not known, and a factor for it is recommended."""
    base_updates: int = 20_000
    """Optimizer updates at `base_batch`; not used if no rate is known."""
    lr_rule: str | None = None
    """`linear` or `sqrt`; None: linear for SGD, square root for AdamW."""
    headroom: float = 0.05
    """Share of the capacity in bytes that "safe" leaves free."""

    def budget_bytes(self, capacity_bytes: int) -> float:
        """The memory that a trial may hold without eating the headroom."""
        return capacity_bytes * (1 - self.headroom)


REFERENCE = Target(batch=10, base_batch=10, base_learning_rate=2.5e-4)
"""DeepLabV2's recipe on Cityscapes, for fine-tuning ImageNet weights with frozen BatchNorm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """Numbers to train with."""

    micro_batch: int
    accumulation_steps: int
    effective_batch: int
    learning_rate: float | None
    """None where no rate is known to scale from."""
    group_learning_rates: tuple[tuple[str, float], ...]
    """Per parameter group of the model: its name and its learning rate."""
    lr_rule: str
    updates: int | None
    """Optimizer updates that keep the images seen constant; None if no rate is known."""
    warmup_updates: int | None
    """None if no rate is known."""
    processes: int = 1
    """The number that take part; the effective batch counts them all."""
    ddp: Ddp = Ddp.DEFAULT
    rate_formula: str | None = None
    """The learning rate where none is known to scale from: `lr * (80 / your batch)`."""

    @property
    def known_rate(self) -> float:
        """The learning rate, of a plan that was scaled from a known one."""
        if self.learning_rate is None:
            raise ValueError("no learning rate is known to scale from")
        return self.learning_rate

    @property
    def schedule(self) -> tuple[int, int] | None:
        """Updates and warm-up updates; None if no rate is known.

        Older files have updates beside an unknown rate: DeepLabV2's, whatever the network.
        """
        if self.learning_rate is None or self.updates is None or self.warmup_updates is None:
            return None
        return self.updates, self.warmup_updates

    @property
    def known_updates(self) -> int:
        """The updates of a plan that was scaled from a known rate."""
        if self.updates is None:
            raise ValueError("a plan without a learning rate has no number of updates")
        return self.updates


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The settings to train one variant with."""

    variant: Variant
    largest: int
    safe: int
    best: int
    best_is_measured: bool
    """False where no throughput is known, so that best is merely safe."""
    plan: TrainingPlan
    without_accumulation: TrainingPlan
    reaches_target: bool = True
    """False where no accumulation ran, so that the plan trains with what fits by itself."""
    trial: Trial | None = None
    """The plan's own trial; None until it has been run."""
    synthetic_trial: Trial | None = None
    """The same on synthetic batches, where the plan's own trial used real images."""
    starred: bool = False
    """The fastest of its norm; another norm is another model, not a speed-up."""
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The boundary as it was predicted before it was measured."""

    largest: int | None
    """The largest batch predicted to run; None where nothing is predicted, or nothing to fit."""
    peaks: tuple[tuple[int, int], ...] = ()
    """Batches predicted to run, ascending, each with the most bytes it should hold."""
    detail: str = ""
    """The reason why there is no prediction."""
    assumptions: tuple[Assumption, ...] = ()
    """As in `ModelFacts`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantResult:
    """One row of the final table."""

    variant: Variant
    boundary: Boundary
    recommendation: Recommendation | None = None
    prediction: Prediction | None = None
    """The prediction that the search began with, where one guided it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything about a run that decides which trials it makes: what `--resume` must match."""

    variants: tuple[Variant, ...]
    device: DeviceRequest
    target: Target
    max_batch: int
    trial_timeout_seconds: float
    search: SearchMethod = SearchMethod.ORDINARY
    time_limit_seconds: float | None = None
    """For the search of each variant."""
    warmup_steps: int = 1
    measured_steps: int = 3
    evaluation_resolution: Resolution | None = None
    data: DataSource | None = None
    seed: int = 0
    processes: int = 1
    """The number that train together: started by torchrun, or predicted."""
    ddp: Ddp = Ddp.DEFAULT

    def trial(self, variant: Variant, batch: int, *, accumulation_steps: int = 1) -> TrialSpec:
        """The description of a trial of such a run."""
        return TrialSpec(
            variant=variant,
            batch_size=batch,
            accumulation_steps=accumulation_steps,
            processes=self.processes,
            ddp=self.ddp,
            warmup_steps=self.warmup_steps,
            measured_steps=self.measured_steps,
            evaluation_resolution=self.evaluation_resolution,
            data=self.data,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A whole run: what was asked, where, every trial, and what follows."""

    schema_version: int
    environment: Environment
    device: DeviceInfo
    settings: Settings
    trials: tuple[Trial, ...]
    results: tuple[VariantResult, ...]

    @property
    def best_result(self) -> VariantResult | None:
        """The starred variant of the norm that was asked for first, None if nothing ran.

        Where that norm has none, the next one's: each norm has its own star, and which norm to
        train with is not for us to say.
        """
        stars = [r for r in self.results if r.recommendation and r.recommendation.starred]
        for first in self.results:
            for result in stars:
                if result.variant.comparison_group == first.variant.comparison_group:
                    return result
        return None

    @property
    def best(self) -> Recommendation | None:
        """The recommendation of the best result."""
        result = self.best_result
        return None if result is None else result.recommendation

    @property
    def has_only_failed(self) -> bool:
        """True where every variant met a failure that says nothing of its memory, and none ran."""
        return all(
            result.boundary.has_failed and result.boundary.largest is None
            for result in self.results
        )
