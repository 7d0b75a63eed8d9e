"""All files of an explanation, in one folder."""

from pathlib import Path

import pandas as pd

from bsprobe.records.explanations import OUTSIDE, ROUNDING, Explanation, ExplanationReport
from bsprobe.records.variants import AXES
from bsprobe.report.explain import markdown as explain_markdown
from bsprobe.report.explain.plots import PICTURES, write_explanation_plots
from bsprobe.report.explain.sentences import recorded
from bsprobe.report.run.tables import to_csv
from bsprobe.storage.files import write_atomically

_MEASURED = "measured-"
"""The prefix of the files of the measured side."""


def write_explanation(report: ExplanationReport, folder: Path) -> None:
    """Write everything but `explanation.json` and the snapshots.

    Args:
        report: The explanation with its remedies.
        folder: The folder of the files.

    Raises:
        FileError: A file cannot be written.
    """
    found = recorded(report)
    sides = [report.explanation] if found is None else [found, report.explanation]
    memory = pd.concat([memory_table(each) for each in sides])
    write_atomically(folder / "memory.csv", to_csv(memory))
    write_atomically(folder / "timeline.csv", to_csv(timeline_table(report.explanation)))
    if found is not None:
        write_atomically(folder / "measured-timeline.csv", to_csv(timeline_table(found)))
    write_changes(report, folder)
    # Pictures take seconds: an interruption keeps the rest.
    write_explanation_plots(report.explanation, folder)
    if found is not None:
        write_explanation_plots(found, folder, prefix=_MEASURED)


def write_changes(report: ExplanationReport, folder: Path) -> None:
    """Write the files that depend on the remedies: their table and the report.

    Args:
        report: The explanation with its remedies, or before they are known.
        folder: The folder of the files, with those of `write_explanation`.

    Raises:
        FileError: A file cannot be written.
    """
    if report.are_remedies_known:
        write_atomically(folder / "remedies.csv", to_csv(remedies_table(report)))
    measured = [] if recorded(report) is None else [f"{_MEASURED}{name}" for name in PICTURES]
    text = explain_markdown.render(report, plots=PICTURES, measured=measured)
    write_atomically(folder / "explain.md", text.encode())


def memory_table(found: Explanation) -> pd.DataFrame:
    """Return the allocations at the peak, rounding and outside memory; they add up to the peak."""
    rows = [
        {
            "source": str(found.source),
            "module": each.module,
            "kind": each.kind,
            "operator": each.operator,
            "phase": each.phase,
            "size_bytes": each.size_bytes,
            "per_image_bytes": each.per_image_bytes if found.scales else None,
        }
        for each in found.allocations
    ]
    for kind, size in (
        (ROUNDING, found.rounding_bytes),
        (OUTSIDE, found.outside_allocator_bytes),
    ):
        rows.append({"source": str(found.source), "kind": kind, "size_bytes": size})
    return pd.DataFrame(rows, dtype=object)


def timeline_table(found: Explanation) -> pd.DataFrame:
    """Return one row a sample of the step, one column a kind."""
    timeline = found.timeline
    columns: dict[str, tuple[int, ...]] = {"event": timeline.at}
    columns |= {
        f"{each.name} bytes".replace(" ", "_"): each.sizes_bytes for each in timeline.by_kind
    }
    columns["reserved_bytes"] = timeline.reserved_bytes
    return pd.DataFrame(columns, dtype=object)


def remedies_table(report: ExplanationReport) -> pd.DataFrame:
    """Return one row a remedy, best first."""
    return pd.DataFrame(
        [
            {
                "source": str(report.explanation.source),
                "device": report.device.name,
                "change": each.name,
                "command": each.command,
                **{axis.field: str(getattr(each.variant, axis.field)) for axis in AXES},
                "accumulation_steps": each.accumulation_steps,
                "largest": each.boundary and each.boundary.largest,
                "boundary": each.boundary and str(each.boundary.stop),
                "batch": report.explanation.spec.batch_size,
                "peak_bytes": each.peak_bytes,
                "per_image_bytes": each.per_image_bytes,
                "cost": each.cost,
                "impossible": each.impossible or None,
            }
            for each in report.remedies
        ],
        dtype=object,
    )
