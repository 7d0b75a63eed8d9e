"""Histories recorded on real GPUs, followed event by event."""

import gzip
import json
from pathlib import Path

import pytest

from bsprobe.simulate.explain.events import walked
from tests.support.commands import ROOT

DATA = ROOT / "tests" / "data" / "traces"
SHARED = ROOT / ".." / "shared" / "traces"
HISTORIES = sorted({*DATA.glob("*.json.gz"), *SHARED.glob("*.json.gz")}, key=lambda p: p.name)


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.name.partition(".")[0])
def test_the_memory_of_a_real_history_is_followed_from_its_first_event_to_its_last(
    path: Path,
) -> None:
    history = json.loads(gzip.decompress(path.read_bytes()))
    found = walked(history, [0])
    codes = [code for code, *_ in history["events"]]
    last = max(number for number, code in enumerate(codes) if code in "af")
    released = sum(size for code, _, size, _ in history["events"][last:] if code in "FU")
    assert found.events[-1].reserved_bytes == history["final_reserved"] + released
    assert max(each.reserved_bytes for each in found.events) <= history["peak_reserved"]
    left = sum(each.held_bytes for each in found.events)
    blocks = sum(size for _, size, is_live in history["final_blocks"] if is_live)
    # Blocks are rounded requests; of earlier allocations only the blocks are known.
    assert left <= blocks
    assert left >= blocks * 0.97
    level = max(each.level for each in found.events)
    assert 0.97 * history["peak_allocated"] <= level <= 1.01 * history["peak_allocated"]
