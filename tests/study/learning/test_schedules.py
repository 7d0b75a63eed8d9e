from itertools import pairwise

import pytest

from bsprobe.study.learning.schedules import poly_with_warmup


def test_poly_falls_from_all_to_nothing_as_the_recipe_says() -> None:
    shares = [poly_with_warmup(u, updates=100, warmup_updates=0) for u in (0, 50, 99, 100, 101)]

    assert shares == pytest.approx([1.0, 0.5**0.9, 0.01**0.9, 0.0, 0.0])


def test_warm_up_rises_linearly_and_hands_over_to_poly() -> None:
    shares = [poly_with_warmup(u, updates=100, warmup_updates=4) for u in range(6)]

    assert shares == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.96**0.9, 0.95**0.9])


def test_no_update_of_a_training_is_made_with_a_rate_of_zero_or_above_the_full_one() -> None:
    for updates in (1, 2, 7, 100):
        for warmup in range(updates):
            shares = [
                poly_with_warmup(u, updates=updates, warmup_updates=warmup) for u in range(updates)
            ]
            assert all(0 < share <= 1 for share in shares)
            assert all(a > b for a, b in pairwise(shares[warmup:]))
