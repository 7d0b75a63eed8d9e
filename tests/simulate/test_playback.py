"""A timeline played on the simulated allocator: workspaces, limits and settings."""

from dataclasses import replace
from typing import Any, cast

import pytest

from bsprobe.records.units import MIB
from bsprobe.records.variants import CudnnBenchmark
from bsprobe.simulate.allocator.caching import CachingAllocator, SimulatedOutOfMemoryError
from bsprobe.simulate.allocator.driver import SimulatedDriver
from bsprobe.simulate.cudnn.workspace import Convolution, Workspaces
from bsprobe.simulate.playback import (
    KernelLimitError,
    NoPlanError,
    Playback,
    cublas_workspace_bytes,
)
from bsprobe.simulate.sums import Multiprocessors, Reduction
from bsprobe.simulate.timeline import (
    Action,
    Affine,
    BatchedConvolution,
    BatchedReduction,
    Event,
    Kind,
    Phase,
    Place,
    Scratch,
    Section,
    Storage,
    Timeline,
)
from tests.support.convolution_examples import PLAIN

PLACE = Place(phase=Phase.FORWARD, module="conv", operator="convolution")
STORAGE = Storage(place=PLACE, kind=Kind.TEMPORARY, size=Affine(fixed=0, per_image=10 * MIB))
BATCHED = BatchedConvolution(
    like=PLAIN,
    input_size=(
        Affine(fixed=0, per_image=1),
        *(Affine(fixed=size, per_image=0) for size in PLAIN.input_size[1:]),
    ),
)
CONVOLUTION = Scratch(place=PLACE, sizes=(), convolution=0)
PRODUCT = Scratch(place=PLACE, sizes=(), uses_cublas=True)


class StubWorkspaces:
    """Returns the same plans for every convolution, and records the convolutions."""

    def __init__(self, *plans: int) -> None:
        self.asked: list[Convolution] = []
        self._plans = plans

    def candidates(self, convolution: Convolution) -> tuple[int, ...]:
        self.asked.append(convolution)
        return self._plans


class Player:
    """Plays a storage and two equal kernels, and records the watched events."""

    def __init__(
        self,
        *first: Event,
        later: tuple[Event, ...] = (),
        scratch: Scratch = CONVOLUTION,
        plans: tuple[int, ...] = (0,),
        batch: int = 4,
        available_bytes: int | None = None,
        **settings: Any,
    ) -> None:
        self.workspaces = StubWorkspaces(*plans)
        self.allocator = CachingAllocator(SimulatedDriver(available_bytes=available_bytes))
        self.seen: list[tuple[Action, int, int]] = []
        timeline = Timeline(
            storages=(STORAGE,),
            scratches=(scratch, scratch),
            convolutions=(BATCHED,),
            sections={Section.SETUP: (), Section.FIRST_STEP: first, Section.LATER_STEP: later},
            traced_at=(2, 3),
        )
        workspaces = cast("Workspaces", self.workspaces)
        self.playback = Playback(
            timeline, batch, allocator=self.allocator, workspaces=workspaces, **settings
        )

    def play(self, section: Section = Section.FIRST_STEP) -> "Player":
        self.playback.play(section, lambda *event: self.seen.append(event))
        return self

    @property
    def inside(self) -> list[int]:
        """Bytes of temporary memory of each kernel."""
        return [size for action, _, size in self.seen if action is Action.SCRATCH]


TAKE, RUN, GIVE = (Action.ALLOCATE, 0), (Action.SCRATCH, 0), (Action.FREE, 0)


def fixed(size: int) -> Affine:
    return Affine(fixed=size, per_image=0)


def test_storages_live_from_allocation_to_free_at_the_size_of_the_batch() -> None:
    player = Player(TAKE, later=(GIVE, TAKE)).play()

    assert player.allocator.allocated_bytes == 40 * MIB
    for _ in range(3):
        player.play(Section.LATER_STEP)
        assert player.allocator.allocated_bytes == 40 * MIB
    assert player.allocator.statistics.reserved_bytes == 40 * MIB
    assert player.seen[:3] == [(*TAKE, 0), (*GIVE, 0), (*TAKE, 0)]


@pytest.mark.parametrize(
    ("scratch", "mib"),
    [
        (Scratch(place=PLACE, sizes=(fixed(3 * MIB), Affine(fixed=0, per_image=MIB), fixed(0))), 7),
        (replace(CONVOLUTION, sizes=(fixed(4 * MIB),)), 6),  # on top of its workspace
    ],
)
def test_a_kernel_takes_all_its_buffers_together_and_gives_them_back(
    scratch: Scratch, mib: int
) -> None:
    player = Player(RUN, scratch=scratch, plans=(2 * MIB,)).play()

    assert player.seen == [(*RUN, mib * MIB)]
    assert player.allocator.allocated_bytes == 0
    assert player.allocator.statistics.peak_allocated_bytes == mib * MIB


@pytest.mark.parametrize("card", [None, Multiprocessors(count=132, threads=2048)])
def test_a_sum_takes_what_blocks_hand_on_where_the_card_is_known(
    card: Multiprocessors | None,
) -> None:
    like = Reduction(outputs=3072, inputs=0, item_bytes=2, sum_bytes=4, vector=4)
    tokens = Affine(fixed=0, per_image=197)
    scratch = Scratch(
        place=PLACE,
        sizes=(fixed(MIB),),
        reduction=BatchedReduction(like=like, outputs=fixed(3072), inputs=tokens),
    )
    player = Player(RUN, scratch=scratch, batch=64, multiprocessors=card).play()

    # Of blocks a row for each of 24 in which 128 outputs lie; the allocator rounds semaphores.
    parts = 0 if card is None else 4 * 3072 * 128 * (132 * 16 // 24) + 512
    assert player.inside == [MIB + parts]
    assert player.allocator.allocated_bytes == 0


def test_cudnn_is_asked_once_for_each_convolution_at_the_size_of_the_batch() -> None:
    player = Player(RUN, RUN, plans=(2 * MIB, 0), batch=7).play()

    assert player.workspaces.asked == [replace(PLAIN, input_size=(7, *PLAIN.input_size[1:]))]
    assert player.inside == [2 * MIB, 2 * MIB]


@pytest.mark.parametrize(
    ("plans", "expected"),
    [
        ((200 * MIB, 90 * MIB, 20 * MIB), 90 * MIB),
        ((20 * MIB, 90 * MIB), 20 * MIB),  # the first, not the largest
        ((200 * MIB, 0), 0),
    ],
)
def test_plans_whose_workspace_does_not_fit_are_skipped(
    plans: tuple[int, ...], expected: int
) -> None:
    assert Player(RUN, plans=plans, available_bytes=100 * MIB).play().inside == [expected]


def test_it_is_out_of_memory_if_no_workspace_fits() -> None:
    player = Player(TAKE, RUN, plans=(200 * MIB, 90 * MIB), available_bytes=100 * MIB)

    with pytest.raises(SimulatedOutOfMemoryError) as caught:
        player.play()

    assert caught.value.segment_bytes == 90 * MIB
    assert player.allocator.allocated_bytes == 40 * MIB


def test_a_convolution_without_plans_is_not_out_of_memory() -> None:
    with pytest.raises(NoPlanError, match="Convolution"):
        Player(RUN, plans=()).play()


def test_benchmarking_takes_the_largest_workspace_once_and_empties_the_cache() -> None:
    plans = (2 * MIB, 100 * MIB, 0)
    plain, timed = (
        Player(TAKE, GIVE, RUN, RUN, plans=plans, benchmark=each).play()
        for each in (CudnnBenchmark.OFF, CudnnBenchmark.ON)
    )

    assert plain.inside == [2 * MIB, 2 * MIB]
    assert timed.inside == [100 * MIB, 2 * MIB]
    assert plain.allocator.statistics.peak_reserved_bytes == 40 * MIB
    assert timed.allocator.statistics.peak_reserved_bytes == 140 * MIB
    # The freed 40 and 100 MiB were returned to the card; the workspace then got a new segment.
    assert timed.allocator.statistics.reserved_bytes == 20 * MIB
    assert plain.allocator.statistics.reserved_bytes == 40 * MIB


def test_equal_convolutions_are_benchmarked_once() -> None:
    plans = (0, 100 * MIB)
    player = Player(
        RUN, (Action.SCRATCH, 1), later=(RUN,), plans=plans, benchmark=CudnnBenchmark.ON
    )

    player.play().play(Section.LATER_STEP)

    assert player.inside == [100 * MIB, 0, 0]
    assert player.allocator.statistics.reserved_bytes == 0


def test_benchmarking_halves_a_workspace_that_does_not_fit() -> None:
    plans = (2 * MIB, 304 * MIB)
    player = Player(RUN, plans=plans, available_bytes=100 * MIB, benchmark=CudnnBenchmark.ON).play()

    statistics = player.allocator.statistics
    assert statistics.peak_allocated_bytes == 76 * MIB
    assert statistics.num_ooms == 2  # at 304 and 152 MiB
    assert player.inside == [76 * MIB]


@pytest.mark.parametrize(
    ("capability", "mib"), [((7, 5), 8.125), ((8, 0), 8.125), ((9, 0), 32), ((10, 0), 8.125)]
)
def test_cublas_takes_a_larger_workspace_on_hopper(capability: tuple[int, int], mib: float) -> None:
    assert cublas_workspace_bytes(capability) == mib * MIB


@pytest.mark.parametrize(("keeps", "each", "kept"), [(True, 0, 1), (False, 1, 0)])
def test_cublas_keeps_its_workspace_or_allocates_it_for_each_call(
    keeps: bool,  # noqa: FBT001 - parametrized
    each: int,
    kept: int,
) -> None:
    player = Player(RUN, RUN, later=(RUN,), scratch=PRODUCT, keeps_cublas=keeps)
    player.play().play(Section.LATER_STEP)

    workspace = cublas_workspace_bytes((8, 0))
    assert player.inside == [each * workspace] * 3
    assert player.playback.kept_bytes == player.allocator.allocated_bytes == kept * workspace


def test_the_backward_pass_has_its_own_workspace_of_cublas() -> None:
    timeline = Timeline(
        storages=(),
        scratches=(PRODUCT, replace(PRODUCT, place=replace(PLACE, phase=Phase.BACKWARD))),
        convolutions=(),
        sections={Section.FIRST_STEP: ((Action.SCRATCH, 0), (Action.SCRATCH, 1)) * 2},
        traced_at=(2, 3),
    )
    workspaces, allocator = StubWorkspaces(), CachingAllocator(SimulatedDriver())
    playback = Playback(timeline, 4, allocator=allocator, workspaces=workspaces)
    playback.play(Section.FIRST_STEP)

    assert playback.kept_bytes == allocator.allocated_bytes == 2 * cublas_workspace_bytes((8, 0))


def test_more_elements_than_a_kernel_can_count_are_not_out_of_memory() -> None:
    place = Place(phase=Phase.FORWARD, module="", operator="upsample_bilinear2d")
    scratch = Scratch(place=place, sizes=(), elements=Affine(fixed=0, per_image=2**25))

    assert Player(RUN, scratch=scratch, batch=63).play().inside == [0]
    with pytest.raises(KernelLimitError, match="upsample_bilinear2d: 2147483648 elements"):
        Player(RUN, scratch=scratch, batch=64).play()
