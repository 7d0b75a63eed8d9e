"""The simulation compared with allocator histories recorded on real GPUs."""

from collections.abc import Callable
from functools import cache, partial

import pytest

from benchmarks.validation.history import History, ReplayResult, load_history
from benchmarks.validation.replay import (
    AllocatorFactory,
    HistoryMismatchError,
    allocator_for,
    replay_addresses,
    replay_freely,
)
from bsprobe.records.units import MIB
from bsprobe.simulate.allocator.caching import CachingAllocator, SimulatedOutOfMemoryError
from bsprobe.simulate.allocator.expandable import ExpandableAllocator
from bsprobe.simulate.allocator.rules import AllocatorRules
from tests.support.changed_rules import (
    BestFitBySizeAlone,
    CoalescingUpwardsOnly,
    FirstFit,
    FlushOfTheLargePoolOnly,
    NoCoalescing,
    NoFlushWhenFull,
    NoUnmapping,
    OnePoolForAllStreams,
    PagesOf2MibInBothPools,
    RequestsFromTheHighEnd,
    SplitsAsInOrdinarySegments,
    TiesToTheHighestAddress,
    WorstFit,
)
from tests.support.commands import ROOT

OUR_TRACES = ROOT / "tests" / "data" / "traces"
SHARED_TRACES = ROOT / ".." / "shared" / "traces"
OURS = ("decomfl_opt_cold", "gpt_compile_torch210", "gpt_train_torch211", "silmont_cold")
SHARED = (
    "eor_cnn_train",
    "gnn_expandable_dev0",
    "gnn_expandable_dev1_oom",
    "gpt_fullstep_ctx512",
    "hf_linear_grad",
    "octree2d_peso_infer_oomretry",
    "octree3d_prostate_train",
    "select_llama_streams_oom",
    "sqattn_emptycache",
)
"""Histories that may not be copied: tested if their checkout is beside this one."""

each_history = pytest.mark.parametrize("name", OURS + SHARED)


@cache
def history(name: str) -> History:
    if name in OURS:
        return load_history(OUR_TRACES / f"{name}.json.gz")
    path = SHARED_TRACES / f"{name}.json.gz"
    if not path.is_file():
        pytest.skip(f"{name} is missing; its licence does not allow a copy in this repository")
    return load_history(path)


@each_history
def test_every_block_lands_on_the_address_that_it_had_on_the_gpu(name: str) -> None:
    assert replay_addresses(history(name)) == history(name).result


@each_history
def test_segments_peaks_and_flushes_follow_from_what_the_program_did_alone(name: str) -> None:
    recorded = history(name)
    for available in _capacities(recorded):
        assert replay_freely(recorded, available_bytes=available) == recorded.result


def _capacities(recorded: History) -> tuple[int | None, ...]:
    """Return the least and the most memory consistent with the driver's grants and refusals."""
    if recorded.capacity_bounds is None:
        return (None,)
    granted, refused = recorded.capacity_bounds
    return (granted, refused - 1)


def test_a_memory_limit_works_as_a_full_card_does() -> None:
    recorded = history("octree2d_peso_infer_oomretry")
    assert recorded.capacity_bounds is not None
    limited = partial(CachingAllocator, limit_bytes=recorded.capacity_bounds[0])
    assert replay_freely(recorded, limited) == recorded.result


def test_less_memory_than_the_gpu_granted_leads_to_another_result() -> None:
    recorded = history("silmont_cold")
    available = recorded.result.peak_reserved_bytes
    assert replay_freely(recorded, available_bytes=available) == recorded.result
    with pytest.raises(SimulatedOutOfMemoryError):
        replay_freely(recorded, available_bytes=available - 2 * MIB)


def test_a_mismatch_names_the_history_the_step_and_both_decisions() -> None:
    rules = AllocatorRules(medium_segment_bytes=24 * MIB)
    with pytest.raises(HistoryMismatchError) as caught:
        replay_addresses(history("silmont_cold"), partial(CachingAllocator, rules=rules))
    assert str(caught.value) == (
        "silmont_cold, step 0: "
        "simulated DriverCall(code='S', address=4706009088, size=25165824), "
        "recorded DriverCall(code='S', address=4706009088, size=20971520)"
    )


# Changed rules: for each, at least one history must differ.


def _rules(**changed: int) -> Callable[[History], AllocatorFactory]:
    def of(recorded: History) -> AllocatorFactory:
        return partial(allocator_for(recorded), rules=AllocatorRules(**changed))  # type: ignore[call-arg]

    return of


def _behaviour(allocator: AllocatorFactory) -> Callable[[History], AllocatorFactory]:
    return lambda _: allocator


CHANGES = (
    ("rounding to 256 B", _rules(rounding_bytes=256), "silmont_cold"),
    ("rounding to 1 KiB", _rules(rounding_bytes=1024), "silmont_cold"),
    ("small up to below 1 MiB", _rules(small_request_bytes=MIB - 512), "decomfl_opt_cold"),
    ("small up to 512 KiB", _rules(small_request_bytes=MIB // 2), "gpt_compile_torch210"),
    ("small segments of 4 MiB", _rules(small_segment_bytes=4 * MIB), "silmont_cold"),
    ("medium segments of 10 MiB", _rules(medium_segment_bytes=10 * MIB), "decomfl_opt_cold"),
    ("medium below 8 MiB", _rules(medium_request_end_bytes=8 * MIB), "decomfl_opt_cold"),
    ("medium up to 10 MiB", _rules(medium_request_end_bytes=10 * MIB + 1), "gpt_fullstep_ctx512"),
    ("large rounded to 512 B", _rules(large_rounding_bytes=512), "decomfl_opt_cold"),
    ("large rounded to 1 MiB", _rules(large_rounding_bytes=MIB), "octree3d_prostate_train"),
    ("large rounded to 4 MiB", _rules(large_rounding_bytes=4 * MIB), "octree3d_prostate_train"),
    ("small split above 512 B", _rules(small_remainder_bytes=513), "gpt_train_torch211"),
    ("large split at 1 MiB", _rules(large_remainder_bytes=MIB), "eor_cnn_train"),
    ("large split at 512 B", _rules(large_remainder_bytes=512), "gpt_train_torch211"),
    ("large split at 2 MiB", _rules(large_remainder_bytes=2 * MIB), "silmont_cold"),
    ("a size not to split", _rules(max_split_size_bytes=200 * MIB), "silmont_cold"),
    ("first fit", _behaviour(FirstFit), "silmont_cold"),
    ("worst fit", _behaviour(WorstFit), "silmont_cold"),
    ("ties to the highest", _behaviour(TiesToTheHighestAddress), "silmont_cold"),
    ("no coalescing", _behaviour(NoCoalescing), "silmont_cold"),
    ("coalescing upwards only", _behaviour(CoalescingUpwardsOnly), "silmont_cold"),
    ("requests from the high end", _behaviour(RequestsFromTheHighEnd), "silmont_cold"),
    ("no flush", _behaviour(NoFlushWhenFull), "octree2d_peso_infer_oomretry"),
    ("flush of large", _behaviour(FlushOfTheLargePoolOnly), "select_llama_streams_oom"),
    ("one pool for streams", _behaviour(OnePoolForAllStreams), "select_llama_streams_oom"),
    ("best fit by size alone", _behaviour(BestFitBySizeAlone), "gnn_expandable_dev0"),
    ("ordinary splits", _behaviour(SplitsAsInOrdinarySegments), "gnn_expandable_dev0"),
    ("small pages", _behaviour(PagesOf2MibInBothPools), "gnn_expandable_dev0"),
    ("small pages of 4 MiB", _rules(small_segment_bytes=4 * MIB), "gnn_expandable_dev0"),
    ("large pages of 24 MiB", _rules(medium_segment_bytes=24 * MIB), "gnn_expandable_dev0"),
    ("no unmapping", _behaviour(NoUnmapping), "gnn_expandable_dev1_oom"),
    ("no expandable segments", _behaviour(CachingAllocator), "gnn_expandable_dev0"),
    ("expandable segments", _behaviour(ExpandableAllocator), "decomfl_opt_cold"),
)


@pytest.mark.parametrize(
    ("change", "witness"),
    [pytest.param(change, witness, id=f"{name}: {witness}") for name, change, witness in CHANGES],
)
def test_a_changed_rule_contradicts_a_recorded_history(
    change: Callable[[History], AllocatorFactory], witness: str
) -> None:
    recorded = history(witness)
    assert _result(recorded, change(recorded)) != recorded.result


def _result(recorded: History, make: AllocatorFactory) -> ReplayResult | None:
    """Return the result of a replay; None if a decision differs."""
    try:
        return replay_addresses(recorded, make)
    except HistoryMismatchError:
        return None
