"""The gradient noise scale: the batch beyond which a larger one gains little.

Source: McCandlish et al. 2018 (arXiv:1812.06162), appendix A.1. The squared norms of gradients at
two batch sizes give unbiased estimates of |G|^2, the squared norm of the true gradient, and of
tr(S), the trace of the covariance of one image's gradient. The "simple" noise scale is
tr(S) / |G|^2. Both are averaged over many steps before the division: a mean of ratios would be
biased.
"""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bsprobe.study.records import NoiseSample

FEWEST_SAMPLES = 4
"""Fewest samples for an interval."""
CONFIDENCE = 0.95
_RESAMPLES = 1000
_SEED = 0
"""Fixed, so that equal samples have equal intervals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseScale:
    """An estimate, in images, with its confidence interval."""

    images: float | None
    """tr(S) / |G|^2; None if the estimate of |G|^2 is not positive."""
    low: float
    high: float | None
    """None if the interval has no upper bound."""
    samples: int


def noise_scale(samples: Sequence[NoiseSample]) -> NoiseScale | None:
    """Estimate the noise scale from the samples of one training.

    The interval is a percentile bootstrap over the samples (Efron 1979). It covers the noise of
    the estimate, not the change of the scale during the training.

    Returns:
        The estimate; None for fewer than `FEWEST_SAMPLES`.
    """
    if len(samples) < FEWEST_SAMPLES:
        return None
    pairs = [_unbiased(sample) for sample in samples]
    generator = random.Random(_SEED)  # noqa: S311 - resampling, not cryptography
    estimates = sorted(_ratio(generator.choices(pairs, k=len(pairs))) for _ in range(_RESAMPLES))
    tail = (1 - CONFIDENCE) / 2
    low = estimates[round(tail * (_RESAMPLES - 1))]
    high = estimates[round((1 - tail) * (_RESAMPLES - 1))]
    whole = _ratio(pairs)
    return NoiseScale(
        images=_finite(whole), low=max(0.0, low), high=_finite(high), samples=len(samples)
    )


def _unbiased(sample: NoiseSample) -> tuple[float, float]:
    """|G|^2 and tr(S) of one sample; either can be negative."""
    small, big = sample.small_batch, sample.big_batch
    square = (big * sample.big_square_norm - small * sample.small_square_norm) / (big - small)
    trace = (sample.small_square_norm - sample.big_square_norm) / (1 / small - 1 / big)
    return square, trace


def _ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """The noise scale of the means; infinite if |G|^2 is not positive."""
    square = statistics.fmean(pair[0] for pair in pairs)
    trace = statistics.fmean(pair[1] for pair in pairs)
    return trace / square if square > 0 else float("inf")


def _finite(value: float) -> float | None:
    return None if value == float("inf") else value
