"""Results of `bsprobe gpus --fit`: the largest batch of each variant on each card."""

from dataclasses import dataclass

from bsprobe.records.assumptions import Assumption
from bsprobe.records.failures import Outcome
from bsprobe.records.gpus import Gpu
from bsprobe.records.runs import SCHEMA_VERSION, Environment
from bsprobe.records.variants import Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFit:
    """The predicted largest batch of one variant on one card."""

    gpu: Gpu
    variant: Variant
    largest: int | None
    """None if not even the smallest batch fits."""
    next_outcome: Outcome | None
    """The outcome of batch `largest` + 1, or of the smallest batch if none fits; None if that batch
    was not predicted."""
    assumptions: tuple[Assumption, ...] = ()
    """As in `ModelFacts`."""
    notes: tuple[str, ...] = ()
    """Sentences about the source of the workspaces of convolutions."""

    @property
    def largest_words(self) -> str:
        """The largest batch; `>=4096` if larger batches may run, empty if none runs."""
        if self.largest is None:
            return ""
        return f"{'>=' if self.next_outcome is None else ''}{self.largest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """The result of `bsprobe gpus --fit`, and the content of `fit.json`."""

    schema_version: int = SCHEMA_VERSION
    environment: Environment
    wanted_batch: int | None
    """The requested batch, or None."""
    fits: tuple[CardFit, ...]

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The variants in the requested order."""
        return tuple(dict.fromkeys(fit.variant for fit in self.fits))

    @property
    def cards(self) -> tuple[Gpu, ...]:
        """The cards in ascending order of total memory."""
        cards = dict.fromkeys(fit.gpu for fit in self.fits)
        return tuple(sorted(cards, key=lambda gpu: (gpu.total_bytes, gpu.name)))

    def largest(self, gpu: Gpu, variant: Variant) -> int | None:
        """Return the largest batch of a variant on a card."""
        return self.fit_of(gpu, variant).largest

    def fit_of(self, gpu: Gpu, variant: Variant) -> CardFit:
        """Return the result of a variant on a card."""
        return next(f for f in self.fits if (f.gpu, f.variant) == (gpu, variant))
