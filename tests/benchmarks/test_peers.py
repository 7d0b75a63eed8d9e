"""The comparison with other tools: its arithmetic and its report."""

import json
import re

import pytest

from benchmarks.peers_report import markdown
from benchmarks.peers_search import autobatch_answer
from bsprobe.records.units import GIB, MIB
from tests.records.test_failures import BUGS, CERTAIN, KERNEL_LIMITS, PROBABLE
from tests.support.commands import ROOT

REPORTS = ROOT / "reports"


@pytest.mark.parametrize(
    ("peaks", "free_bytes", "answer"),
    [
        # 100 MiB and 50 MiB an image; 60 % of 1010 MiB leave room for ten.
        ({b: (100 + 50 * b) * MIB for b in (1, 2, 4, 8, 16)}, 1010 * MIB, 10),
        # The answer of the line is above a size that failed: the size before it.
        ({b: (100 + 50 * b) * MIB for b in (1, 2, 4)}, 1000 * MIB, 4),
        # The answer of the line is below the size that failed.
        ({b: (100 + 50 * b) * MIB for b in (1, 2, 4, 8)}, 500 * MIB, 4),
        # Below 1, above 1024, or no line at all: the default of 16.
        ({b: (900 + 50 * b) * MIB for b in (1, 2, 4, 8, 16)}, 1000 * MIB, 16),
        ({b: (100 + b) * MIB for b in (1, 2, 4, 8, 16)}, 100 * GIB, 16),
        ({1: 100 * MIB}, 1000 * MIB, 16),
    ],
)
def test_autobatch_gives_60_percent_of_the_free_memory_to_the_line(
    peaks: dict[int, int], free_bytes: int, answer: int
) -> None:
    assert autobatch_answer(peaks, free_bytes) == answer


def test_the_report_is_what_its_figures_say() -> None:
    raw = json.loads((REPORTS / "peers.json").read_text(encoding="utf-8"))
    assert (REPORTS / "peers.md").read_text(encoding="utf-8") == markdown(raw)
    assert raw["command"] == "python benchmarks/peers.py"
    found = {entry["tool"]: entry for entry in raw["found"] if entry["device"] == "cpu"}
    assert list(found) == [
        "lightning-power", "lightning-binsearch", "accelerate", "autobatch", "bsprobe",
    ]  # fmt: skip
    assert len(raw["messages"]) == sum(map(len, (CERTAIN, PROBABLE, KERNEL_LIMITS, BUGS)))


def test_the_report_names_no_folder_of_the_machine() -> None:
    for name in ("peers.md", "peers.json"):
        text = (REPORTS / name).read_text(encoding="utf-8")
        assert re.findall(r"/(?:home|tmp|root|work|Users)/\S*", text) == []


def test_every_message_is_tried_on_every_tool() -> None:
    pytest.importorskip("lightning")
    pytest.importorskip("accelerate")
    from benchmarks.peers_messages import recognitions  # noqa: PLC0415 - needs the extra "peers"

    raw = json.loads((REPORTS / "peers.json").read_text(encoding="utf-8"))
    assert [m["message"] for m in raw["messages"]] == [r["message"] for r in recognitions()]
