"""Reading of recorded histories."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.validation.history import (
    Action,
    DriverCall,
    History,
    InitialSegment,
    ReplayResult,
    Step,
    load_history,
)
from bsprobe.records.errors import FileError
from bsprobe.records.units import MIB

RECORD: dict[str, Any] = {
    "format": 1,
    "name": "short",
    "expandable": False,
    "initial": {
        "segments": [[8 * MIB, 2 * MIB, 3, 1]],
        "blocks": [[9 * MIB, 1024, 1000, 3], [8 * MIB, 512, 500, 3]],
    },
    "events": [
        ["f", 8 * MIB, 500, 3],
        ["S", 16 * MIB, 20 * MIB, 0],
        ["a", 16 * MIB, 5 * MIB, 0],
        ["f", 16 * MIB, 5 * MIB, 0],
        ["F", 16 * MIB, 20 * MIB, 0],
        ["F", 8 * MIB, 2 * MIB, 3],
        ["S", 16 * MIB, 30 * MIB, 0],
        ["a", 16 * MIB, 30 * MIB, 0],
        ["f", 16 * MIB, 30 * MIB, 0],
        ["F", 16 * MIB, 30 * MIB, 0],
    ],
    "release_runs": [[4, "oom_retry"], [9, "empty_cache"]],
    "cap_bounds_mib": [30, 40],
    "peak_allocated": 30 * MIB + 1024,
    "peak_reserved": 32 * MIB,
    "final_reserved": 0,
    "final_blocks": [[9 * MIB, 1024, 1]],
}


def write(folder: Path, data: object) -> Path:
    path = folder / "history.json.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        json.dump(data, file)
    return path


def test_a_record_becomes_what_the_program_did_and_what_that_led_to(tmp_path: Path) -> None:
    assert load_history(write(tmp_path, RECORD)) == History(
        name="short",
        is_expandable=False,
        initial_segments=(
            InitialSegment(
                address=8 * MIB,
                size=2 * MIB,
                stream=3,
                is_small=True,
                live=((8 * MIB, 512, 500), (9 * MIB, 1024, 1000)),
            ),
        ),
        steps=(
            Step(Action.FREE, 8 * MIB, 500, 3, ()),
            Step(Action.ALLOCATE, 16 * MIB, 5 * MIB, 0, (DriverCall("S", 16 * MIB, 20 * MIB),)),
            Step(Action.FREE, 16 * MIB, 5 * MIB, 0, ()),
            Step(
                Action.ALLOCATE,
                16 * MIB,
                30 * MIB,
                0,
                (
                    DriverCall("F", 16 * MIB, 20 * MIB),
                    DriverCall("F", 8 * MIB, 2 * MIB),
                    DriverCall("S", 16 * MIB, 30 * MIB),
                ),
            ),
            Step(Action.FREE, 16 * MIB, 30 * MIB, 0, ()),
            Step(Action.EMPTY_CACHE, 0, 0, 0, (DriverCall("F", 16 * MIB, 30 * MIB),)),
        ),
        result=ReplayResult(
            new_memory=(20 * MIB, 30 * MIB),
            flushes=(1,),
            num_ooms=0,
            peak_allocated_bytes=30 * MIB + 1024,
            peak_requested_bytes=30 * MIB + 1000,
            peak_reserved_bytes=32 * MIB,
            final_reserved_bytes=0,
        ),
        final_blocks=((9 * MIB, 1024, True),),
        capacity_bounds=(30 * MIB, 40 * MIB),
    )


def test_an_out_of_memory_event_tells_how_much_the_card_had(tmp_path: Path) -> None:
    events = [["S", 4 * MIB, 20 * MIB, 0], ["a", 4 * MIB, 2 * MIB, 0], ["o", 7 * MIB, 30 * MIB, 0]]
    initial: dict[str, list[int]] = {"segments": [], "blocks": []}
    changes = {"events": events, "release_runs": [], "cap_bounds_mib": None, "initial": initial}
    history = load_history(write(tmp_path, RECORD | changes))
    assert history.capacity_bounds == (27 * MIB, 27 * MIB + 1)
    assert history.result.num_ooms == 1


@pytest.mark.parametrize("data", [{"format": 2}, {}, []])
def test_another_format_is_refused(tmp_path: Path, data: object) -> None:
    with pytest.raises(FileError, match="format 1"):
        load_history(write(tmp_path, data))


@pytest.mark.parametrize("change", [{"events": [["x", 1, 2, 3]]}, {"initial": {}}, {"events": 7}])
def test_a_damaged_record_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(FileError, match="is damaged"):
        load_history(write(tmp_path, RECORD | change))


def test_a_file_that_is_absent_or_not_compressed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot read the allocator history"):
        load_history(tmp_path / "absent.json.gz")
    plain = tmp_path / "plain.json.gz"
    plain.write_text("{}")
    with pytest.raises(FileError, match="cannot read the allocator history"):
        load_history(plain)
