"""Workspaces of convolutions that real cards of compute capability 9.0 cut into more slices.

Some engines of cuDNN 9.19 compute the result in tiles, as many at a time as the card can hold. The
tiles of an incomplete last round are cut into slices along the sum, so that no multiprocessor
waits, and each slice is kept in the workspace in fp32, with counters for adding slices in pairs.
Asked about a card that is only described, cuDNN counts with 18 tiles at a time, whatever number of
multiprocessors the description gives; an H100 or H200 holds 132. Plans and their names are the
same, workspaces are not. Copies in another layout, the rest of a workspace, are the same for both.

The numbers were read off the answers of an H200 and an H100 in `tests/data/truth`. Of an H200's
6582 workspaces of these engines, by plans of the same name, 6470 are what follows here and 2737
what is described; of an H100's 6421 they are 6291 and 2716. How many slices cuDNN finds the fastest
depends on the card too: most of those that differ have others. The limits of rounds after complete
ones agree with U-Nets that both recorded: of their 1976 convolutions 1942 take what is predicted,
1080 did before, and the others are 1x1.
"""

import math
from dataclasses import dataclass
from typing import Final

from bsprobe.simulate.cudnn.convolutions import Convolution, Direction

MEASURED_CUDNN: Final = 919
"""9.19, without the patch number; other versions number their engines in another way."""

_ENGINES: Final = frozenset({"eng62", "eng65", "eng67", "eng68", "eng71"})
_KNOBS: Final = {"k2", "k13", "k18", "k25", "k27", "k28"}
_TILES: Final = {
    0: (128, 128),
    1: (128, 64),
    2: (128, 32),
    3: (256, 128),
    4: (256, 64),
    5: (64, 64),
    6: (128, 256),
    7: (64, 128),
    8: (64, 32),
    9: (64, 256),
    16: (256, 32),
    18: (64, 192),
    19: (128, 192),
    20: (192, 128),
}
"""Rows and columns of a tile by the plan's k2. Those of 2, 8 and 18 to 20 are among several that
explain the answers equally well: only the number of tiles was seen, not a slice."""
_DESCRIBED_AT_A_TIME: Final = 18
_AT_A_TIME: Final = {
    1: 132,
    2: 132,
    3: 117,
    4: 120,
    5: 110,
    6: 102,
    7: 105,
    8: 120,
    14: 98,
    16: 112,
}
"""Tiles that a card computes at a time, by those that run together in one cluster."""
_SUM_BYTES: Final = 4
_COUNTER_BYTES: Final = 4
_ROUNDS_BYTES: Final = 131
"""The counter of a kernel that runs more than two rounds, with what aligns it."""
_SLICES_BYTES: Final = 159
"""The alignment of slices and counters."""
_ALIGNMENT: Final = 16
"""Converted copies take a multiple of it."""

_SHORT_STEP, _LONG_STEP = 32, 64
_LEAST_STEPS: Final = 12
"""Without complete rounds, shorter sums are not cut."""
_LATER_SLICES: Final = (
    (4096, 14, 14, 10),
    (8192, 11, 4.8, 10),
    (16384, 6.1, 4.8, 8),
    (math.inf, 4.8, 4.8, 8),
)
"""After complete rounds, for steps of 32 terms, by the most elements of a tile: how many steps of a
slice are enough for as many slices as find room, in a sum of fewer than `_FEW_STEPS` and in others;
and the fewest steps of a slice where that is not enough, and there are a power of two."""
_LATER_SLICES_OF_LONG_STEPS: Final = ((4096, 4.8, 4.8, 5), (math.inf, 4, 4, 4))
"""The same for steps of 64 terms."""
_MANY_TERMS: Final = 10_000
"""Without complete rounds, from how many terms of a sum the next holds."""
_STEPS_OF_A_LONG_SLICE: Final = {_SHORT_STEP: 33, _LONG_STEP: 17}
"""The fewest, by the terms of a step."""
_MOST_SLICES: Final = 128
_FEW_STEPS: Final = 64
_STEPS_OF_A_SHORT_SLICE: Final = 8
_STEPS_OF_A_SLICE: Final = {_SHORT_STEP: 16, _LONG_STEP: 13}
"""The fewest where the sum has `_FEW_STEPS` or more; the one before where it has fewer."""
_STEPS_OF_A_FREE_SLICE: Final = 16
"""From so many on the number of slices need not be a power of two."""


@dataclass(frozen=True)
class _Plan:
    """A plan, as its name describes it.

    Attributes:
        tile: Rows and columns of the result that are computed together.
        cluster: Tiles in rows and columns that run together.
        is_sliced: True if an incomplete last round is cut into slices.
        step: Terms of the sum that are added at once.
    """

    tile: tuple[int, int]
    cluster: tuple[int, int]
    is_sliced: bool
    step: int


def real_bytes(convolution: Convolution, name: str, described: int) -> int:
    """The workspace on a real card.

    Args:
        convolution: The one that was asked about.
        name: cuDNN's name of the plan.
        described: The workspace of this plan on a described card.

    Returns:
        The real one, or `described` where the plan is none of those measured, or where its
        workspace is not what the rule gives for a described card.
    """
    plan = _read(name)
    if plan is None or convolution.groups != 1:
        return described
    clustered = math.prod(plan.cluster)
    least = max(_DESCRIBED_AT_A_TIME // clustered, 1) * clustered
    for is_sliced in dict.fromkeys((plan.is_sliced, False)):
        rest = described - _scheduling_bytes(convolution, plan, least, is_sliced=is_sliced)
        if rest == 0 or (rest > 0 and rest % _ALIGNMENT == 0 and _is_converted(convolution)):
            most = _AT_A_TIME[clustered]
            return rest + _scheduling_bytes(convolution, plan, most, is_sliced=plan.is_sliced)
    return described


def _read(name: str) -> _Plan | None:
    """The plan of a name such as eng68_k2=4_k13=0_k18=1_k25=0_k27=1_k28=2; None of others."""
    engine, *knobs = name.split("_")
    texts = {key: value for key, _, value in (knob.partition("=") for knob in knobs)}
    if engine not in _ENGINES or texts.keys() != _KNOBS:
        return None
    values = {key: int(value) for key, value in texts.items()}
    cluster = (values["k27"], values["k28"])
    if values["k2"] not in _TILES or math.prod(cluster) not in _AT_A_TIME:
        return None
    return _Plan(
        tile=_TILES[values["k2"]],
        cluster=cluster,
        is_sliced=values["k25"] == 0,
        step=_LONG_STEP if values["k13"] else _SHORT_STEP,
    )


def _scheduling_bytes(
    convolution: Convolution, plan: _Plan, at_a_time: int, *, is_sliced: bool
) -> int:
    """The part of a workspace that depends on how many tiles a card computes at a time."""
    tiles, sums, terms = _product(convolution, plan)
    rounds, last = divmod(tiles, at_a_time)
    is_counted = tiles > 2 * at_a_time
    if is_sliced and last:
        steps = sums * -(-terms // plan.step)
        share = at_a_time // last
        if rounds:
            slices = _later_slices(steps, share, plan)
        else:
            slices = _only_slices(steps, share, sums * terms, plan.step)
        if slices > 1:
            kept = last * slices * math.prod(plan.tile) * _SUM_BYTES
            counters = last * _pairs(slices) + is_counted
            return kept + counters * _COUNTER_BYTES + _SLICES_BYTES
    return _ROUNDS_BYTES if is_counted else 0


def _product(convolution: Convolution, plan: _Plan) -> tuple[int, int, int]:
    """The tiles of the matrix product that a convolution is, its sums and the terms of each."""
    wide = convolution.widened()
    outputs, channels, *kernel = wide.weight_size
    taps = math.prod(kernel)

    def positions(size: tuple[int, ...]) -> int:
        return size[0] * math.prod(size[2:])

    match wide.direction:
        case Direction.FORWARD:
            rows, columns, repeated = positions(wide.output_size), outputs, 1
            sums, terms = taps, channels
        case Direction.DATA_GRADIENT:
            rows, columns, repeated = positions(wide.input_size), channels, 1
            sums, terms = taps, outputs
        case Direction.WEIGHT_GRADIENT:
            rows, columns, repeated = outputs, channels, taps
            sums, terms = 1, positions(wide.output_size)
    down, across = -(-rows // plan.tile[0]), -(-columns // plan.tile[1]) * repeated
    return _up(down, plan.cluster[0]) * _up(across, plan.cluster[1]), sums, terms


def _later_slices(steps: int, share: int, plan: _Plan) -> int:
    """Slices of each tile of the last of several rounds.

    Args:
        steps: Of the sum of one tile.
        share: Tiles that could be computed at a time for each in the round.
        plan: Where the tile's size and a step's count.
    """
    rows = _LATER_SLICES if plan.step == _SHORT_STEP else _LATER_SLICES_OF_LONG_STEPS
    size = math.prod(plan.tile)
    _, few, many, least = next(row for row in rows if size <= row[0])
    if steps >= (few if steps < _FEW_STEPS else many) * share:
        return -(-steps // -(-steps // share))
    return _power_of_two(min(share, steps // least))


def _only_slices(steps: int, share: int, terms: int, step: int) -> int:
    """Slices of each tile where there is one round, and that incomplete.

    Args:
        steps: Of the sum of one tile.
        share: Tiles that could be computed at a time for each in the round.
        terms: Of the sum, all steps together.
        step: Terms in one.
    """
    if steps < _LEAST_STEPS:
        return 1
    if terms >= _MANY_TERMS:
        return max(1, min(share, _MOST_SLICES, steps // _STEPS_OF_A_LONG_SLICE[step]))
    if steps >= _STEPS_OF_A_FREE_SLICE * share:
        return share
    is_short = steps < _FEW_STEPS
    return _power_of_two(
        min(share, steps // (_STEPS_OF_A_SHORT_SLICE if is_short else _STEPS_OF_A_SLICE[step]))
    )


def _power_of_two(most: int) -> int:
    return 1 << (max(1, most).bit_length() - 1)


def _pairs(slices: int) -> int:
    """Sums of two neighbours, or of one left over, until one is left of all slices."""
    pairs = 0
    while slices > 1:
        slices = -(-slices // 2)
        pairs += slices
    return pairs


def _is_converted(convolution: Convolution) -> bool:
    """Return whether the kernel reads copies in another layout or with more channels."""
    aligned = 4 if convolution.dtype == "float32" else 8
    outputs, channels = convolution.weight_size[:2]
    return not convolution.channels_last or channels % aligned > 0 or outputs % aligned > 0


def _up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
