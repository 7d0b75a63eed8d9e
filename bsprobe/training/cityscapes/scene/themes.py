"""The kinds of street there are."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Theme:
    """What is certain to be found in a kind of street; chance adds more."""

    verge_m: float
    left: tuple[str, ...]
    """What lines the street behind the left sidewalk, stretch by stretch."""
    right: tuple[str, ...]
    ahead: str
    """The vehicle in front in the own lane."""
    oncoming: str
    riders: tuple[str, ...]
    tree_spacing_m: float
    """0 for no trees along the road."""
    has_parking: bool
    """Whether the cars along the kerb stand on a marked strip."""


THEMES = (
    Theme(
        verge_m=0.0,
        left=("house",),
        right=("house",),
        ahead="car",
        oncoming="bus",
        riders=("cyclist", "motorcyclist"),
        tree_spacing_m=0.0,
        has_parking=True,
    ),
    Theme(
        verge_m=2.2,
        left=("house", "hedge", "fence"),
        right=("wall", "house"),
        ahead="truck",
        oncoming="car",
        riders=("cyclist",),
        tree_spacing_m=13.0,
        has_parking=False,
    ),
    Theme(
        verge_m=0.0,
        left=("house", "house", "wall"),
        right=("house", "fence"),
        ahead="car",
        oncoming="train",
        riders=("cyclist", "motorcyclist"),
        tree_spacing_m=24.0,
        has_parking=False,
    ),
    Theme(
        verge_m=3.0,
        left=("hedge", "wall", "nothing"),
        right=("fence", "house", "nothing"),
        ahead="bus",
        oncoming="truck",
        riders=("motorcyclist",),
        tree_spacing_m=9.0,
        has_parking=False,
    ),
)
"""Every class occurs in some theme, so that a handful of scenes holds all of them."""
