"""Records of a run, from its settings to its results.

All memory is in bytes and all times are in seconds; `units` formats them.
"""

from dataclasses import dataclass
from enum import StrEnum

from bsprobe.records.assumptions import Assumption
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.gpus import Gpu
from bsprobe.records.growth import Growth
from bsprobe.records.rates import LearningRateRule
from bsprobe.records.scripts import Script
from bsprobe.records.trials import DataSource, Ddp, Source, Trial, TrialSpec, Validation
from bsprobe.records.units import MIB, Resolution
from bsprobe.records.variants import Variant

SCHEMA_VERSION = 1
"""The version of run files and journals; loaders reject any other version."""
MAX_BATCH = 4096
"""The default of the largest batch to try."""
TRIAL_TIMEOUT_SECONDS = 900.0
"""The default of the time after which a trial fails."""
SMALLEST_CAPACITY_CHANGE_BYTES = 64 * MIB
"""Capacities that differ by less count as equal. Without a memory limit, the capacity of a GPU is
its total minus the memory of other processes, which changes by a few MiB with each desktop window.
Another compute process holds more: the smallest CUDA context takes about 100 MiB."""


class SearchMethod(StrEnum):
    """The method of searching the boundary; the proof is the same for all methods."""

    ORDINARY = "ordinary"
    """Double the batch until a trial fails, then bisect."""
    GUIDED = "guided"
    """Start at the boundary that is predicted for the GPU."""


class StopReason(StrEnum):
    """The reason for the end of the search for a variant's largest batch."""

    PROVEN = "proven"
    """The largest batch ran and the next ran out of memory, each in a fresh process."""
    KERNEL_LIMIT = "kernel limit"
    """As `PROVEN`, but the next batch failed at a 32-bit limit of a kernel."""
    NOTHING_FITS = "nothing fits"
    MAX_BATCH = "max batch"
    TIME = "time"
    HOST_MEMORY = "host memory"
    """The machine's memory was exhausted, not the GPU's; the boundary is unknown."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRequest:
    """The requested device."""

    device: str | None = None
    """`cpu`, `cuda` or `cuda:1`; None for the GPU of the machine, if it has one."""
    memory_limit_bytes: int | None = None
    gpu: Gpu | None = None
    """The card to predict for, or None."""
    rank_limits_bytes: tuple[int, ...] = ()
    """The memory limit of each rank, if a limit per rank was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """The device that trials run on or are predicted for, and its memory."""

    kind: DeviceKind
    name: str
    source: Source
    total_bytes: int
    """The total memory of the device as PyTorch reports it."""
    capacity_bytes: int
    """The bytes that one trial may hold, inside and outside PyTorch's allocator."""
    limit_bytes: int | None = None
    """The requested memory limit, or None."""
    is_assumed: bool = False
    """True if the machine has no GPU and this card is the default for predictions."""
    other_processes_bytes: int | None = None
    """Held by other processes when the device was opened; None if unknown."""
    compute_capability: str | None = None
    driver: str | None = None
    tf32_convolutions: bool | None = None
    tf32_matmuls: bool | None = None
    notes: tuple[str, ...] = ()
    """Sentences about the device that affect the results."""

    @property
    def capability(self) -> tuple[int, int] | None:
        """The compute capability as (major, minor); None for a CPU."""
        if self.compute_capability is None:
            return None
        major, minor = self.compute_capability.split(".")
        return int(major), int(minor)

    def has_memory_of(self, other: "DeviceInfo") -> bool:
        """Return whether both have the same memory limit and capacities that count as equal."""
        return self.limit_bytes == other.limit_bytes and is_same_capacity(
            self.capacity_bytes, other.capacity_bytes
        )


def is_same_capacity(one: int, two: int) -> bool:
    """Return whether two capacities in bytes count as equal."""
    return abs(one - two) < SMALLEST_CAPACITY_CHANGE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The command, machine and versions of a run."""

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
    """The batch at which a variant stops fitting, and the reason for the end of the search."""

    stop: StopReason
    largest: int | None = None
    """The largest batch that ran, or None."""
    first_failure: int | None = None
    """The smallest batch above `largest` that did not run, or None."""
    detail: str = ""
    """A sentence that explains the stop reason, or empty."""

    @property
    def is_exact(self) -> bool:
        """True if batch B ran and the next multiple failed, each in a separate process."""
        return self.stop in (StopReason.PROVEN, StopReason.KERNEL_LIMIT)

    @property
    def has_failed(self) -> bool:
        """True if the search ended with a failure that does not depend on the batch."""
        return self.stop in (StopReason.FAILED, StopReason.HOST_MEMORY)

    @property
    def is_known(self) -> bool:
        """True if the search did not fail, and found a batch that runs or that none fits."""
        return not self.has_failed and (
            self.largest is not None or self.stop is StopReason.NOTHING_FITS
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The user's recipe, from which batch and learning rate are scaled.

    A field that is None comes from the recipe of the network, if it has one (`recipe_of`).
    """

    batch: int | None = None
    """The effective batch to reach; None for the best batch that fits without accumulation."""
    base_batch: int | None = None
    """The effective batch of the base learning rate."""
    base_learning_rate: float | None = None
    """None if unknown; the recommendation is then a factor."""
    base_updates: int = 20_000
    """Optimizer updates at `base_batch`; not used if no rate is known. Their product is the images
    to train on."""
    lr_rule: str | None = None
    """`linear` or `sqrt`; None for linear with SGD and square root with AdamW."""
    headroom: float = 0.05
    """The fraction of the capacity that the safe batch leaves free."""

    def budget_bytes(self, capacity_bytes: int) -> float:
        """Return the bytes that a trial may hold without using the headroom."""
        return capacity_bytes * (1 - self.headroom)


REFERENCE = Target(batch=10, base_batch=10, base_learning_rate=2.5e-4)
"""DeepLabV2's recipe on Cityscapes, for fine-tuning ImageNet weights with frozen BatchNorm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """Batch, learning rate and schedule for a training."""

    micro_batch: int
    accumulation_steps: int
    effective_batch: int
    learning_rate: float | None
    """None if no base rate is known."""
    group_learning_rates: tuple[tuple[str, float], ...]
    """Per parameter group of the model: its name and its learning rate."""
    lr_rule: LearningRateRule
    updates: int | None
    """Optimizer updates that keep the number of images constant; None if no rate is known."""
    warmup_updates: int | None
    """None if no rate is known."""
    processes: int = 1
    """The number of processes that train together; the effective batch counts all of them."""
    ddp: Ddp = Ddp.DEFAULT
    rate_formula: str | None = None
    """The formula of the learning rate if no base rate is known: `lr * (80 / your batch)`."""

    @property
    def known_rate(self) -> float:
        """The learning rate.

        Raises:
            ValueError: No base rate is known.
        """
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
    """The recommended settings for one variant."""

    variant: Variant
    largest: int
    safe: int
    """The largest batch that leaves the headroom free, else the smallest batch that ran."""
    best: int
    """The safe batch with the highest throughput."""
    best_is_measured: bool
    """False if no throughput is known; `best` then equals `safe`."""
    plan: TrainingPlan
    without_accumulation: TrainingPlan
    reaches_target: bool = True
    """False if no accumulation ran; the plan then trains without it."""
    trial: Trial | None = None
    """The trial of the plan; None until it has run."""
    synthetic_trial: Trial | None = None
    """The same trial on synthetic batches, if `trial` used real images."""
    starred: bool = False
    """True for the fastest variant of each norm; another norm makes another model."""
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The predicted boundary, from before the measurement."""

    largest: int | None
    """The largest batch predicted to run; None without a prediction, or if no batch fits."""
    peaks: tuple[tuple[int, int], ...] = ()
    """Batches predicted to run, ascending, each with its predicted peak in bytes."""
    detail: str = ""
    """The reason if there is no prediction, else empty."""
    assumptions: tuple[Assumption, ...] = ()
    """As in `ModelFacts`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantResult:
    """The results of one variant: a row of the final table."""

    variant: Variant
    boundary: Boundary
    recommendation: Recommendation | None = None
    prediction: Prediction | None = None
    """The prediction that guided the search; None in an ordinary search."""
    validation_boundary: Boundary | None = None
    """The largest validation batch that runs after the steps of the recommended plan; None if it
    was not searched."""
    growth: tuple[Growth, ...] = ()
    """The growth of memory at the smallest and the largest batch; empty if it does not grow."""

    @property
    def critical_growth(self) -> tuple[Growth, ...]:
        """The growth if it ends trainings: no batch is safe, and nothing is recommended."""
        return self.growth if any(each.ends_trainings for each in self.growth) else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings that decide the trials of a run; `--resume` requires equal settings."""

    variants: tuple[Variant, ...]
    device: DeviceRequest
    target: Target
    max_batch: int
    trial_timeout_seconds: float
    search: SearchMethod = SearchMethod.ORDINARY
    batch_multiple: int = 1
    """Only multiples of this number are tried."""
    time_limit_seconds: float | None = None
    """The limit for the search of each variant."""
    warmup_steps: int = 1
    measured_steps: int = 3
    validation: Validation | None = None
    """The validation after the training steps of each trial; None for none."""
    seeks_validation_batch: bool = False
    """True to search the largest validation batch beside the recommended training batch."""
    evaluation_resolution: Resolution | None = None
    """Always None since version 0.3; see `TrialSpec`."""
    data: DataSource | None = None
    seed: int = 0
    processes: int = 1
    """The number of processes that train together: started by torchrun, or predicted."""
    ddp: Ddp = Ddp.DEFAULT

    @property
    def script(self) -> Script | None:
        """The user's command, or None for a run of networks."""
        return self.variants[0].script

    @property
    def validation_words(self) -> str:
        """The validation in words: `1 x 1024x2048`, `none`."""
        return "none" if self.validation is None else self.validation.describe()

    def trial(self, variant: Variant, batch: int, *, accumulation_steps: int = 1) -> TrialSpec:
        """Describe a trial with these settings.

        Args:
            variant: The variant to run.
            batch: The micro-batch, in images.
            accumulation_steps: Micro-batches per optimizer update.
        """
        return TrialSpec(
            variant=variant,
            batch_size=batch,
            accumulation_steps=accumulation_steps,
            processes=self.processes,
            ddp=self.ddp,
            warmup_steps=self.warmup_steps,
            measured_steps=self.measured_steps,
            validation=self.validation,
            data=self.data,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run: environment, device, settings, trials and results."""

    schema_version: int
    environment: Environment
    device: DeviceInfo
    settings: Settings
    trials: tuple[Trial, ...]
    results: tuple[VariantResult, ...]

    @property
    def processes(self) -> int:
        """The processes that train together; a user's command starts them by itself."""
        return max([self.settings.processes, *(trial.processes for trial in self.trials)])

    @property
    def best_result(self) -> VariantResult | None:
        """The starred variant of the first norm that has one; None if nothing ran.

        Each norm has its own star, and the order of the norms is the user's choice.
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
        """True if no variant ran and every failure was unrelated to the batch."""
        return all(r.boundary.has_failed and r.boundary.largest is None for r in self.results)
