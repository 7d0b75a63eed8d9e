"""Tests of the catalogue of GPUs."""

import csv
import re
from dataclasses import fields
from importlib import resources
from statistics import median

import pytest

from bsprobe.records import gpus
from bsprobe.records.errors import UsageError
from bsprobe.records.gpus import (
    COLUMNS,
    DEFAULT_GPU,
    ESTIMATE,
    Gpu,
    catalogue,
    custom_gpu,
    find_gpu,
    find_gpus,
)
from bsprobe.records.units import GIB, MIB

TEXT = (resources.files("bsprobe") / "records" / "gpus.csv").read_text(encoding="utf-8")
ROWS = {row["name"]: row for row in csv.DictReader(TEXT.splitlines(), strict=True)}
LINES = tuple(gpus._line(row) for row in ROWS.values())
GIB_IN_MIB = 1024
CAPABILITIES = ("6.0", "6.1", "7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
TERMS = re.compile(r"(\d+\.\d+)-(\d+\.\d+)(?: GiB-(\d+\.\d+) MiB|-(\d+\.\d+) GiB)")
"""Memory in use, allocated, and reserved but unallocated, in one unit or in two."""


def sums(source: str) -> list[float]:
    """Return the differences that a source quotes from out-of-memory messages, in MiB."""
    return [
        (float(used) - float(allocated) - float(of_gib or 0)) * GIB_IN_MIB - float(of_mib or 0)
        for used, allocated, of_mib, of_gib in TERMS.findall(source)
    ]


def test_the_catalogue_has_every_line_of_the_file_once_and_at_least_forty() -> None:
    names = [gpu.name for gpu in catalogue()]
    assert names == list(ROWS)
    assert len(names) == len(TEXT.splitlines()) - 1
    assert len(names) >= 40


def test_the_file_has_the_columns_that_are_documented() -> None:
    assert tuple(next(csv.reader(TEXT.splitlines()))) == COLUMNS


@pytest.mark.parametrize("gpu", catalogue(), ids=lambda gpu: gpu.name)
def test_a_card_is_complete_and_its_figures_are_possible(gpu: Gpu) -> None:
    row = ROWS[gpu.name]
    assert gpu.compute_capability in CAPABILITIES
    assert 50 * MIB < gpu.outside_allocator_bytes < GIB
    assert gpu.allocator_bytes == gpu.total_bytes - gpu.outside_allocator_bytes
    if nominal := int(row["nominal_mib"] or 0) * MIB:  # `gpus --this` leaves the two empty
        assert 0.93 * nominal < gpu.total_bytes < nominal
    assert 10 <= int(row["multiprocessors"] or 10) <= 200


@pytest.mark.parametrize("name", ROWS)
def test_every_figure_has_a_source_or_is_an_estimate(name: str) -> None:
    row, gpu = ROWS[name], find_gpu(name)
    assert bool(row["total_mib"]) == bool(row["total_source"])
    assert bool(row["outside_mib"]) == bool(row["outside_source"])
    assert gpu.total_source == (row["total_source"] or ESTIMATE)
    assert gpu.outside_source == (row["outside_source"] or ESTIMATE)


@pytest.mark.parametrize("name", [name for name in ROWS if sums(ROWS[name]["outside_source"])])
def test_memory_outside_is_the_median_of_the_quoted_messages(name: str) -> None:
    row = ROWS[name]
    assert int(row["outside_mib"]) == pytest.approx(median(sums(row["outside_source"])), abs=1)


def test_every_reported_memory_outside_quotes_its_messages_or_was_measured_by_bsprobe() -> None:
    quoted = {row["name"]: row["outside_source"] for row in ROWS.values() if row["outside_mib"]}
    assert [
        name
        for name, source in quoted.items()
        if not sums(source)
        and "bsprobe gpus --this" not in source
        and "tests/data/truth" not in source
    ] == []


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
def test_the_estimate_of_a_known_card_is_close_to_its_figures(line: gpus._Line) -> None:
    others = [other for other in LINES if other is not line]
    # Lines from `bsprobe gpus --this` lack the columns for estimates.
    if line.total is not None and line.nominal is not None:
        assert gpus._estimated_total(line, others) == pytest.approx(line.total, rel=0.03)
    if line.outside is not None and line.multiprocessors is not None:
        assert line.total is not None
        estimated = gpus._estimated_outside(line, others)
        assert estimated == pytest.approx(line.outside, abs=line.total / 100)


def test_an_estimate_is_made_from_the_cards_of_the_same_compute_capability() -> None:
    def line(name: str, **given: object) -> gpus._Line:
        nothing: dict[str, object] = {field.name: None for field in fields(gpus._Line)}
        sources = {"total_source": "", "outside_source": ""}
        return gpus._Line(**{**nothing, **sources, "name": name, **given})  # type: ignore[arg-type] # names and kinds are those of the test

    asked = line("asked", compute_capability="8.6", multiprocessors=50, nominal=10_000)
    others = (
        line("a", compute_capability="8.6", multiprocessors=10, nominal=9000, total=8900),
        line("b", compute_capability="8.6", multiprocessors=10, nominal=9000, total=8700),
        line("c", compute_capability="9.0", multiprocessors=100, nominal=9000, total=1, outside=70),
        line("d", compute_capability="9.0", outside=1, total=1),
    )
    made = gpus._gpu(asked, (asked, *others))
    # 10 000 - median(100, 300); no card of 8.6 has memory outside, so all cards count: 50 * 70/100.
    assert (made.total_bytes, made.outside_allocator_bytes) == (9800 * MIB, 35 * MIB)
    assert (made.total_source, made.outside_source) == (ESTIMATE, ESTIMATE)


def test_the_default_is_in_the_catalogue_with_nothing_estimated() -> None:
    assert ESTIMATE not in {
        find_gpu(DEFAULT_GPU).total_source,
        find_gpu(DEFAULT_GPU).outside_source,
    }


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("RTX 4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        (" NVIDIA GeForce RTX 4090 ", "RTX 4090"),
        ("rtx4070tisuper", "RTX 4070 Ti SUPER"),
        ("4070 super", "RTX 4070 SUPER"),
        ("4070", "RTX 4070"),
        ("3080", "RTX 3080 10GB"),
        ("3080Ti", "RTX 3080 Ti"),
        ("NVIDIA GeForce RTX 3060", "RTX 3060 12GB"),
        ("a6000", "RTX A6000"),
        ("6000 ada", "RTX 6000 Ada Generation"),
        ("Tesla T4", "T4"),
        ("l4", "L4"),
        ("A10", "A10"),
        ("NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB"),
        ("A100 SXM 80GB", "A100-SXM4-80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB PCIe"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM 80GB HBM3"),
        ("h100-sxm5", "H100 SXM 80GB HBM3"),
        ("Tesla V100-SXM2-32GB", "V100-SXM2-32GB"),
        ("GH200", "GH200 480GB"),
        ("1080ti", "GTX 1080 Ti"),
        ("NVIDIA GeForce GTX 1080", "GTX 1080"),
        ("Tesla P100-PCIE-16GB", "P100-PCIE-16GB"),
        ("NVIDIA TITAN X (Pascal)", "TITAN X (Pascal)"),
        ("titan xp", "TITAN Xp"),
        (
            "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
            "RTX PRO 6000 Blackwell",
        ),
    ],
)
def test_a_card_is_found_as_people_and_pytorch_write_it(text: str, name: str) -> None:
    assert find_gpu(text).name == name


@pytest.mark.parametrize("name", ROWS)
def test_every_name_finds_its_own_card(name: str) -> None:
    assert find_gpu(name).name == find_gpu(name.lower().replace(" ", "-")).name == name


@pytest.mark.parametrize(
    ("text", "why", "hint"),
    [
        ("A100-80GB", "several", "choose among A100 80GB PCIe, A100-SXM4-80GB"),
        ("V100", "several", "choose among V100-SXM2-16GB, V100-SXM2-32GB"),
        ("RTX 4060 Ti", "several", "choose among RTX 4060 Ti 8GB, RTX 4060 Ti 16GB"),
        (
            *("rtx 6000", "several"),
            "choose among RTX 6000 Ada Generation, RTX PRO 6000 Blackwell",
        ),
        ("RTX 4099", "unknown", "did you mean RTX 4090? "),
        ("RTX 3080 Laptop GPU", "unknown", "did you mean RTX 3080"),
        ("radeon", "unknown", "bsprobe gpus lists all"),
        ("", "unknown", "bsprobe gpus lists all"),
        ("RTX", "unknown", "bsprobe gpus lists all"),
        ("Ω", "unknown", "bsprobe gpus lists all"),
    ],
)
def test_an_ambiguous_or_unknown_name_is_refused_with_the_matching_or_nearest_cards(
    text: str, why: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=f"--gpu: '{text}' .*{why}") as refused:
        find_gpu(text)
    given = refused.value.hint or ""
    assert given == hint if why == "several" else given.startswith(hint)


def test_a_custom_card_has_the_given_figures() -> None:
    assert custom_gpu(20 * GIB, "8.6", outside=300 * MIB) == Gpu(
        name="custom 20.0 GiB, compute capability 8.6",
        compute_capability="8.6",
        total_bytes=20 * GIB,
        total_source="as given",
        outside_allocator_bytes=300 * MIB,
        outside_source="as given",
    )


def test_a_custom_card_holds_the_median_outside_of_its_compute_capability() -> None:
    made = custom_gpu(80 * GIB, "8.0")
    alike = [g.outside_allocator_bytes for g in catalogue() if g.compute_capability == "8.0"]
    assert (made.outside_allocator_bytes, made.outside_source) == (median(alike), ESTIMATE)


@pytest.mark.parametrize(
    ("capability", "hint"),
    [
        ("8.7", "the nearest is 8.6; known: " + ", ".join(CAPABILITIES)),
        ("12.1", "the nearest is 12.0; known: " + ", ".join(CAPABILITIES)),
        ("5.2", "the nearest is 6.0; known: " + ", ".join(CAPABILITIES)),
        ("sm_86", "did you mean 8.6? Known: " + ", ".join(CAPABILITIES)),
        ("120", "did you mean 12.0? Known: " + ", ".join(CAPABILITIES)),
        ("90a", "did you mean 9.0? Known: " + ", ".join(CAPABILITIES)),
        ("sm_", "choose among " + ", ".join(CAPABILITIES)),
        ("", "choose among " + ", ".join(CAPABILITIES)),
        ("nan", "choose among " + ", ".join(CAPABILITIES)),
    ],
)
def test_an_unknown_compute_capability_is_refused_with_the_nearest(
    capability: str, hint: str
) -> None:
    with pytest.raises(UsageError, match="--compute-capability") as refused:
        custom_gpu(20 * GIB, capability)
    assert refused.value.hint == hint


@pytest.mark.parametrize(
    ("capacity", "outside", "complaint"),
    [
        (0, None, "--capacity: 0 B is out of range"),
        (-GIB, None, "is out of range"),
        (2**40, None, "--capacity: 1024.0 GiB is out of range"),
        (100 * MIB, None, "--capacity: 100 MiB leaves no memory"),
        (GIB, GIB, "leaves no memory"),
        (GIB, -1, "leaves no memory"),
    ],
)
def test_a_capacity_that_no_card_has_is_refused(
    capacity: int, outside: int | None, complaint: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(complaint)) as refused:
        custom_gpu(capacity, "8.6", outside=outside)
    assert refused.value.hint is not None


def test_a_list_of_cards_takes_a_name_that_means_several() -> None:
    names = [gpu.name for gpu in find_gpus(["4090", "H100", "4090"], "NAME")]

    assert names[0] == "RTX 4090"
    assert len(names) == len(set(names)) > 2
    assert all("H100" in name for name in names[1:])


def test_multiprocessors_are_those_of_the_catalogue_or_typical_of_the_compute_capability() -> None:
    assert find_gpu("RTX 3090").multiprocessors == 82
    alike = [line for line in LINES if line.compute_capability == "8.6"]
    counts = [line.multiprocessors for line in alike if line.multiprocessors is not None]
    assert custom_gpu(20 * GIB, "8.6").multiprocessors == round(median(counts))
