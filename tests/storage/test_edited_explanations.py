"""An explanation in which one value was edited is refused with its place."""

import json
from pathlib import Path
from typing import Any

import pytest

from bsprobe.records.errors import FileError
from bsprobe.storage.codec import to_json
from bsprobe.storage.explanationfile import NAME, load_explanation
from tests.support.edits import edited
from tests.support.explanations import MEASURED_REPORT

EDITS: dict[str, Any] = {
    "device.source": "measured",
    "explanation.source": "measured",
    "explanation.capacity_bytes": 2**40,
    "explanation.peak_allocated_bytes": 2**40,
    "explanation.peak_reserved_bytes": 1,
    "explanation.allocations": [
        {
            **dict.fromkeys(("module", "kind", "operator", "phase"), ""),
            "size_bytes": 2**40,
            "per_image_bytes": 0,
        }
    ],
    "explanation.spec.variant.classes": 7,
    "explanation.fits": False,
    "explanation.scales": False,
    "explanation.line.1.used_bytes": 7,
    "explanation.line.1.batch": 1,
    "explanation.next_peak_bytes": 7,
    "explanation.timeline.at": [0, 10, 20],
    "explanation.timeline.at.0": 11,
    "explanation.timeline.by_kind.0.sizes_bytes": [1],
    "explanation.timeline.next_allocated_bytes": [1],
    "explanation.outside_allocator_bytes": -1,
    "explanation.timeline.reserved_bytes": [],
    "boundary.first_failure": None,
    "boundary.largest": 7,
    "remedies.0.boundary.largest": 99,
    "are_remedies_known": False,
    "remedies.0.impossible": "it has results",
    "measured.device.source": "predicted",
    "measured.device.is_assumed": True,
    "measured.explanation.source": "predicted",
    "measured.explanation.capacity_bytes": 1,
    "measured.explanation.spec.batch_size": 3,
    "measured.explanation.next_peak_bytes": 1,
    "measured.explanation.fits": False,
    "measured.failure": "it has failed",
    "measured.explanation": None,
}
ELSEWHERE = {
    "boundary.first_failure": "$.boundary: ",
    "boundary.largest": "$.boundary: ",
    "remedies.0.boundary.largest": "$.remedies[0].boundary: ",
    "explanation.spec.variant.classes": "$.explanation.spec.variant: ",
    "explanation.peak_reserved_bytes": "$.explanation.peak_allocated_bytes: ",
    "explanation.scales": "$.explanation.allocations: ",
    "explanation.line.1.used_bytes": "$.explanation.line: ",
    "explanation.line.1.batch": "$.explanation.line: ",
    "explanation.timeline.at": "$.explanation.timeline.reserved_bytes: ",
    "explanation.timeline.at.0": "$.explanation.timeline.at: ",
    "measured.explanation.spec.batch_size": "$.measured.explanation.spec: ",
    "measured.explanation.next_peak_bytes": "$.measured.explanation.line: ",
    "measured.explanation": "$.measured.failure: ",
}
"""The place that the message names, if it is not the edited one."""


def as_written(place: str) -> str:
    return "$" + "".join(f"[{p}]" if p.isdecimal() else f".{p}" for p in place.split("."))


@pytest.mark.parametrize("place", EDITS)
def test_an_edited_value_is_refused_with_its_place(place: str, tmp_path: Path) -> None:
    value = to_json(MEASURED_REPORT)
    path = tmp_path / NAME
    path.write_text(json.dumps(value))
    assert load_explanation(tmp_path) == MEASURED_REPORT
    path.write_text(json.dumps(edited(value, place, EDITS[place])))
    with pytest.raises(FileError) as refused:
        load_explanation(tmp_path)
    start, damage = str(refused.value).split(" is damaged: ")
    assert start == str(path)
    assert damage.startswith(ELSEWHERE.get(place, as_written(place)))
    assert refused.value.hint is not None
