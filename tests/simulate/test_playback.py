"""A timeline played on the simulated allocator: workspaces, limits, and what is in force when."""

from dataclasses import replace
from typing import cast

import pytest

from bsprobe.records.units import MIB
from bsprobe.records.variants import CudnnBenchmark
from bsprobe.simulate.allocator.allocator import CachingAllocator, SimulatedOutOfMemoryError
from bsprobe.simulate.allocator.driver import SimulatedDriver
from bsprobe.simulate.cudnn.workspace import Convolution, Workspaces
from bsprobe.simulate.playback import (
    KernelLimitError,
    NoPlanError,
    Playback,
    cublas_workspace_bytes,
)
from bsprobe.simulate.timeline import (
    Action,
    Affine,
    BatchedConvolution,
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
    """Answers every question alike, and remembers what it was asked."""

    def __init__(self, *plans: int) -> None:
        self.asked: list[Convolution] = []
        self._plans = plans

    def candidates(self, convolution: Convolution) -> tuple[int, ...]:
        self.asked.append(convolution)
        return self._plans


def timeline_of(
    *first: Event,
    later: tuple[Event, ...] = (),
    storages: tuple[Storage, ...] = (),
    scratches: tuple[Scratch, ...] = (),
) -> Timeline:
    return Timeline(
        storages=storages,
        scratches=scratches,
        convolutions=(BATCHED,),
        sections={Section.SETUP: (), Section.FIRST_STEP: first, Section.LATER_STEP: later},
        traced_at=(2, 3),
    )


class CountingDriver(SimulatedDriver):
    """Keeps the size of each segment that it hands out."""

    def __init__(self, available_bytes: int | None) -> None:
        super().__init__(available_bytes=available_bytes)
        self.handed_out: list[int] = []

    def malloc(self, size: int) -> int | None:
        address = super().malloc(size)
        if address is not None:
            self.handed_out.append(size)
        return address


class Player:
    """Plays sections and keeps what a watcher is told."""

    def __init__(
        self,
        timeline: Timeline,
        *,
        plans: tuple[int, ...] = (0,),
        batch: int = 4,
        available_bytes: int | None = None,
        benchmark: CudnnBenchmark = CudnnBenchmark.OFF,
        keeps_cublas: bool = True,
    ) -> None:
        self.workspaces = StubWorkspaces(*plans)
        self.driver = CountingDriver(available_bytes)
        self.allocator = CachingAllocator(self.driver)
        self.seen: list[tuple[Action, int, int]] = []
        self._playback = Playback(
            timeline,
            batch,
            allocator=self.allocator,
            workspaces=cast("Workspaces", self.workspaces),
            benchmark=benchmark,
            keeps_cublas=keeps_cublas,
        )

    def play(self, section: Section = Section.FIRST_STEP) -> "Player":
        self._playback.play(section, lambda *event: self.seen.append(event))
        return self

    @property
    def inside(self) -> list[int]:
        """What each kernel took inside."""
        return [size for action, _, size in self.seen if action is Action.SCRATCH]


TAKE, RUN, GIVE = (Action.ALLOCATE, 0), (Action.SCRATCH, 0), (Action.FREE, 0)


def test_storages_live_from_their_birth_to_their_death_at_the_size_of_the_batch() -> None:
    timeline = timeline_of(TAKE, later=(GIVE, TAKE), storages=(STORAGE,))
    player = Player(timeline).play()

    assert player.allocator.allocated_bytes == 40 * MIB
    for _ in range(3):
        player.play(Section.LATER_STEP)
        assert player.allocator.allocated_bytes == 40 * MIB
    assert player.allocator.statistics.reserved_bytes == 40 * MIB
    assert player.seen[:3] == [(*TAKE, 0), (*GIVE, 0), (*TAKE, 0)]


def test_a_kernel_takes_all_its_buffers_together_and_gives_them_back() -> None:
    sizes = (Affine(fixed=3 * MIB, per_image=0), Affine(fixed=0, per_image=MIB))
    nothing = Affine(fixed=0, per_image=0)
    scratch = Scratch(place=PLACE, sizes=(*sizes, nothing))
    player = Player(timeline_of(RUN, scratches=(scratch,))).play()

    assert player.seen == [(*RUN, 7 * MIB)]
    assert player.allocator.allocated_bytes == 0
    assert player.allocator.statistics.peak_allocated_bytes == 7 * MIB


def test_cudnn_is_asked_once_for_each_convolution_at_the_size_of_the_batch() -> None:
    timeline = timeline_of(RUN, RUN, scratches=(CONVOLUTION,))
    player = Player(timeline, plans=(2 * MIB, 0), batch=7).play()

    assert player.workspaces.asked == [replace(PLAIN, input_size=(7, *PLAIN.input_size[1:]))]
    assert player.inside == [2 * MIB, 2 * MIB]


def test_a_workspace_comes_on_top_of_the_copies_beside_it() -> None:
    scratch = replace(CONVOLUTION, sizes=(Affine(fixed=4 * MIB, per_image=0),))
    player = Player(timeline_of(RUN, scratches=(scratch,)), plans=(2 * MIB,)).play()

    assert player.inside == [6 * MIB]
    assert player.allocator.statistics.peak_allocated_bytes == 6 * MIB
    assert player.allocator.allocated_bytes == 0


@pytest.mark.parametrize(
    ("plans", "expected"),
    [
        ((200 * MIB, 90 * MIB, 20 * MIB), 90 * MIB),
        ((20 * MIB, 90 * MIB), 20 * MIB),  # the first, not the largest
        ((200 * MIB, 0), 0),
    ],
)
def test_plans_whose_workspace_cannot_be_had_are_passed_over(
    plans: tuple[int, ...], expected: int
) -> None:
    timeline = timeline_of(RUN, scratches=(CONVOLUTION,))
    player = Player(timeline, plans=plans, available_bytes=100 * MIB).play()

    assert player.inside == [expected]


def test_it_is_out_of_memory_when_no_plan_can_have_its_workspace() -> None:
    timeline = timeline_of(TAKE, RUN, storages=(STORAGE,), scratches=(CONVOLUTION,))
    player = Player(timeline, plans=(200 * MIB, 90 * MIB), available_bytes=100 * MIB)

    with pytest.raises(SimulatedOutOfMemoryError) as caught:
        player.play()

    assert caught.value.segment_bytes == 90 * MIB
    assert player.allocator.allocated_bytes == 40 * MIB


def test_a_convolution_that_cudnn_has_no_plan_for_is_no_question_of_memory() -> None:
    player = Player(timeline_of(RUN, scratches=(CONVOLUTION,)), plans=())

    with pytest.raises(NoPlanError, match="cuDNN has no plan for Convolution"):
        player.play()


def test_benchmarking_takes_the_largest_workspace_once_and_empties_the_cache() -> None:
    timeline = timeline_of(TAKE, GIVE, RUN, RUN, storages=(STORAGE,), scratches=(CONVOLUTION,))
    plans = (2 * MIB, 100 * MIB, 0)
    plain = Player(timeline, plans=plans).play()
    timed = Player(timeline, plans=plans, benchmark=CudnnBenchmark.ON).play()

    assert plain.inside == [2 * MIB, 2 * MIB]
    assert timed.inside == [100 * MIB, 2 * MIB]
    assert plain.allocator.statistics.peak_reserved_bytes == 40 * MIB
    assert timed.allocator.statistics.peak_reserved_bytes == 140 * MIB
    # The freed 40 MiB and the 100 went back to the card; the workspace then took a new segment.
    assert timed.allocator.statistics.reserved_bytes == 20 * MIB
    assert plain.allocator.statistics.reserved_bytes == 40 * MIB


def test_equal_convolutions_are_benchmarked_once() -> None:
    timeline = timeline_of(
        RUN, (Action.SCRATCH, 1), later=(RUN,), scratches=(CONVOLUTION, CONVOLUTION)
    )
    player = Player(timeline, plans=(0, 100 * MIB), benchmark=CudnnBenchmark.ON)

    player.play().play(Section.LATER_STEP)

    assert player.driver.handed_out == [100 * MIB]
    assert player.driver.used_bytes == 0


def test_benchmarking_halves_what_it_cannot_have() -> None:
    timeline = timeline_of(RUN, scratches=(CONVOLUTION,))
    player = Player(
        timeline,
        plans=(2 * MIB, 304 * MIB),
        available_bytes=100 * MIB,
        benchmark=CudnnBenchmark.ON,
    ).play()

    statistics = player.allocator.statistics
    assert statistics.peak_allocated_bytes == 76 * MIB
    assert statistics.num_ooms == 2  # at 304 and 152 MiB
    assert player.inside == [76 * MIB]


@pytest.mark.parametrize(
    ("capability", "mib"), [((7, 5), 8.125), ((8, 0), 8.125), ((9, 0), 32), ((10, 0), 8.125)]
)
def test_cublas_wants_more_on_hopper(capability: tuple[int, int], mib: float) -> None:
    assert cublas_workspace_bytes(capability) == mib * MIB


def test_cublas_keeps_its_workspace_from_the_first_matrix_product_on() -> None:
    timeline = timeline_of(RUN, RUN, later=(RUN,), scratches=(PRODUCT,))
    player = Player(timeline).play().play(Section.LATER_STEP)

    workspace = cublas_workspace_bytes((8, 0))
    assert player.inside == [0, 0, 0]
    assert player._playback.kept_bytes == player.allocator.allocated_bytes == workspace


def test_newer_pytorch_gives_cublas_its_workspace_for_each_call() -> None:
    timeline = timeline_of(RUN, RUN, later=(RUN,), scratches=(PRODUCT,))
    player = Player(timeline, keeps_cublas=False).play().play(Section.LATER_STEP)

    workspace = cublas_workspace_bytes((8, 0))
    assert player.inside == [workspace] * 3
    assert player.allocator.allocated_bytes == 0


@pytest.mark.parametrize(("batch", "is_too_much"), [(63, False), (64, True)])
def test_more_elements_than_a_kernel_can_count_are_no_question_of_memory(
    batch: int,
    is_too_much: bool,  # noqa: FBT001 - parametrized
) -> None:
    place = Place(phase=Phase.FORWARD, module="", operator="upsample_bilinear2d")
    scratch = Scratch(place=place, sizes=(), elements=Affine(fixed=0, per_image=2**25))
    player = Player(timeline_of(RUN, scratches=(scratch,)), batch=batch)

    if is_too_much:
        with pytest.raises(KernelLimitError, match="upsample_bilinear2d: 2147483648 elements"):
            player.play()
    else:
        assert player.play().inside == [0]


def test_a_full_card_is_the_allocators_error() -> None:
    player = Player(timeline_of(TAKE, storages=(STORAGE,)), available_bytes=39 * MIB)

    with pytest.raises(SimulatedOutOfMemoryError):
        player.play()
