"""The gradient noise scale, compared with that of gradients of known covariance."""

import random
import statistics
from collections.abc import Sequence

import pytest

from bsprobe.study.noise_scale import NoiseScale, noise_scale
from bsprobe.study.records import NoiseSample

GRADIENT = (0.3, -0.2, 0.1)
DEVIATIONS = (1.0, 0.5, 2.0)
"""Variance of each component of one image's gradient."""
TRUE_SCALE = sum(d**2 for d in DEVIATIONS) / sum(g**2 for g in GRADIENT)


def norms(small: int, big: int, of_small: float, of_big: float) -> NoiseSample:
    return NoiseSample(
        updates=1,
        small_batch=small,
        big_batch=big,
        small_square_norm=of_small,
        big_square_norm=of_big,
    )


def sample(rng: random.Random, *, small: int = 2, big: int = 16) -> NoiseSample:
    """Samples of the norms of Gaussian gradients with the mean and the covariance above."""
    batches = [
        [
            statistics.fmean(rng.gauss(g, d) for _ in range(small))
            for g, d in zip(GRADIENT, DEVIATIONS, strict=True)
        ]
        for _ in range(big // small)
    ]
    whole = [statistics.fmean(parts) for parts in zip(*batches, strict=True)]
    mean = statistics.fmean(sum(x * x for x in batch) for batch in batches)
    return norms(small, big, mean, sum(x * x for x in whole))


def exact(small: int, big: int, *, square: float, trace: float) -> NoiseSample:
    """The expected norms: |G|^2 + tr(S) / B."""
    return norms(small, big, square + trace / small, square + trace / big)


def scale_of(samples: Sequence[NoiseSample]) -> NoiseScale:
    found = noise_scale(samples)
    assert found is not None
    return found


def test_expected_norms_give_the_true_scale_whatever_the_two_batches() -> None:
    for small, big in ((1, 2), (1, 8), (3, 24)):
        found = scale_of([exact(small, big, square=0.25, trace=6.0)] * 4)
        assert (found.images, found.low, found.high) == pytest.approx((24.0, 24.0, 24.0))


def test_many_samples_come_to_the_true_scale() -> None:
    rng = random.Random(1)

    found = scale_of([sample(rng) for _ in range(1000)])

    assert found.images == pytest.approx(TRUE_SCALE, rel=0.2)


def test_the_interval_holds_the_true_scale_about_as_often_as_it_says() -> None:
    rng = random.Random(2)
    found = [scale_of([sample(rng) for _ in range(40)]) for _ in range(40)]

    assert sum(one.low <= TRUE_SCALE <= (one.high or float("inf")) for one in found) >= 34


def test_the_two_estimates_are_averaged_before_they_are_divided() -> None:
    samples = [exact(1, 8, square=1.0, trace=2.0), exact(1, 8, square=3.0, trace=30.0)] * 2

    assert scale_of(samples).images == pytest.approx(
        32 / 4
    )  # the mean of the two ratios would be 6


def test_a_gradient_that_drowns_in_noise_has_an_open_interval() -> None:
    found = scale_of([exact(1, 8, square=0.0, trace=8.0)] * 5)

    assert (found.images, found.high) == (None, None)


def test_the_same_samples_have_the_same_interval() -> None:
    rng = random.Random(3)
    samples = [sample(rng) for _ in range(20)]

    assert noise_scale(samples) == noise_scale(samples)


def test_too_few_samples_say_nothing() -> None:
    assert noise_scale([exact(1, 8, square=1.0, trace=1.0)] * 3) is None
