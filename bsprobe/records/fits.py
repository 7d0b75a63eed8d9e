"""The answer to which GPU a network needs: the largest batch of each variant on each card."""

from dataclasses import dataclass

from bsprobe.records.assumptions import Assumption
from bsprobe.records.failures import Outcome
from bsprobe.records.gpus import Gpu
from bsprobe.records.runs import SCHEMA_VERSION, Environment
from bsprobe.records.variants import Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFit:
    """The largest batch of a variant that one card runs, by prediction."""

    gpu: Gpu
    variant: Variant
    largest: int | None
    """None where not even the smallest batch fits."""
    next_outcome: Outcome | None
    """The outcome of the next batch; None where no larger one was asked for."""
    assumptions: tuple[Assumption, ...] = ()
    """As in `ModelFacts`."""
    notes: tuple[str, ...] = ()
    """Sentences on how the workspaces of convolutions were found."""

    @property
    def largest_words(self) -> str:
        """The largest batch, `>=4096` where larger ones may run; empty where none does."""
        if self.largest is None:
            return ""
        return f"{'>=' if self.next_outcome is None else ''}{self.largest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """Everything that `bsprobe gpus --fit` found; what is written to `fit.json`."""

    schema_version: int = SCHEMA_VERSION
    environment: Environment
    wanted_batch: int | None
    """The batch that was asked for, or None."""
    fits: tuple[CardFit, ...]

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The variants, in the order they were asked for."""
        return tuple(dict.fromkeys(fit.variant for fit in self.fits))

    @property
    def cards(self) -> tuple[Gpu, ...]:
        """The cards, the one with the least usable memory first."""
        cards = dict.fromkeys(fit.gpu for fit in self.fits)
        return tuple(sorted(cards, key=lambda gpu: (gpu.total_bytes, gpu.name)))

    def largest(self, gpu: Gpu, variant: Variant) -> int | None:
        """The largest batch of a variant on a card."""
        return self.fit_of(gpu, variant).largest

    def fit_of(self, gpu: Gpu, variant: Variant) -> CardFit:
        """The answer for a variant on a card."""
        return next(f for f in self.fits if (f.gpu, f.variant) == (gpu, variant))
