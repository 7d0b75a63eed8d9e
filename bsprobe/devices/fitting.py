"""The largest batch of a variant on many simulated cards, from one traced step."""

from collections.abc import Iterator, Sequence

from bsprobe.analysis.memory_line import Line, line_through
from bsprobe.analysis.search import LARGEST_MINIMUM, gallop
from bsprobe.devices.simulated import SimulatedDevice, Tracers
from bsprobe.records.failures import Outcome
from bsprobe.records.fits import CardFit
from bsprobe.records.gpus import Gpu, custom_gpu
from bsprobe.records.trials import TrialSpec
from bsprobe.records.units import GIB
from bsprobe.records.variants import Variant
from bsprobe.simulate.allocator.caching import SimulatedOutOfMemoryError
from bsprobe.simulate.cuda.libraries import workspaces_on
from bsprobe.simulate.cudnn.workspace import Workspaces
from bsprobe.simulate.playback import KernelLimitError

_ROOMY_BYTES = 2**39
"""Memory of a card that is large enough for every trial of a guess."""


def fit_cards(
    variants: Sequence[Variant], gpus: Sequence[Gpu], *, max_batch: int
) -> Iterator[CardFit]:
    """Find a batch of each variant that fits each card while the next larger one does not.

    There can be several such batches, because cuDNN's plans change with the batch and a larger
    batch can take less memory. The result is usually the batch that a run finds.

    Args:
        variants: The variants.
        gpus: The cards.
        max_batch: Largest batch to try.

    Yields:
        One result for each pair of variant and card, grouped by variant.

    Raises:
        Exception: Any exception of a network other than out of memory or a kernel limit.
    """
    tracers = Tracers()
    capabilities = dict.fromkeys(gpu.compute_capability for gpu in gpus)
    for variant in variants:
        for capability in capabilities:
            alike = [gpu for gpu in gpus if gpu.compute_capability == capability]
            with workspaces_on(alike[0].capability) as workspaces:
                yield from _fit_alike(variant, alike, tracers, workspaces, max_batch)


def _fit_alike(
    variant: Variant,
    gpus: Sequence[Gpu],
    tracers: Tracers,
    workspaces: Workspaces,
    max_batch: int,
) -> Iterator[CardFit]:
    """Fit cards of one compute capability, which share one line of memory against batch."""

    def device(gpu: Gpu) -> SimulatedDevice:
        return SimulatedDevice(gpu, None, tracers=tracers, workspaces=workspaces)

    minimum = _smallest_that_runs(device(_roomy(gpus[0])), variant)
    line = _line(device(_roomy(gpus[0])), variant, minimum)
    facts = tracers.find(_spec(variant, minimum)).facts
    for gpu in gpus:
        runs = _Trials(device(gpu), variant)
        guess = line.largest_within(gpu.allocator_bytes) or 0
        largest = gallop(runs, guess, minimum=minimum, max_batch=max_batch)
        following = minimum if largest is None else largest + 1
        yield CardFit(
            gpu=gpu,
            variant=variant,
            largest=largest,
            next_outcome=runs.outcomes.get(following),
            assumptions=facts.assumptions,
            notes=workspaces.notes,
        )


class _Trials:
    """Outcomes of the batches tried on one card; each batch is tried once."""

    def __init__(self, device: SimulatedDevice, variant: Variant) -> None:
        self._device = device
        self._variant = variant
        self.outcomes: dict[int, Outcome] = {}

    def __call__(self, batch: int) -> bool:
        if batch not in self.outcomes:
            self.outcomes[batch] = self._outcome(batch)
        return self.outcomes[batch] is Outcome.FITS

    def _outcome(self, batch: int) -> Outcome:
        try:
            self._device.run_trial(_spec(self._variant, batch), lambda _: None)
        except SimulatedOutOfMemoryError:
            return Outcome.OUT_OF_MEMORY
        except KernelLimitError:
            return Outcome.KERNEL_LIMIT
        return Outcome.FITS


def _smallest_that_runs(device: SimulatedDevice, variant: Variant) -> int:
    """The smallest batch that the network accepts.

    It is 2 if BatchNorm has one value per channel in a batch of one image, usually 1.
    """
    for batch in range(1, LARGEST_MINIMUM):
        try:
            device.run_trial(_spec(variant, batch), lambda _: None)
        except ValueError:
            continue
        return batch
    return LARGEST_MINIMUM


def _line(device: SimulatedDevice, variant: Variant, minimum: int) -> Line:
    """Peak allocated memory against batch."""
    peaks = [
        (batch, device.run_trial(_spec(variant, batch), lambda _: None).peak_allocated_bytes)
        for batch in (2 * minimum, 4 * minimum)
    ]
    line = line_through(peaks)
    assert line is not None  # noqa: S101 - two peaks make one
    return line


def _roomy(gpu: Gpu) -> Gpu:
    return custom_gpu(_ROOMY_BYTES, gpu.compute_capability, GIB)


def _spec(variant: Variant, batch: int) -> TrialSpec:
    return TrialSpec(variant=variant, batch_size=batch)
