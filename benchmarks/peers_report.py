"""Report of `peers.py`: a table for each device, the messages, a plot and the raw figures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from bsprobe.records.units import format_bytes, format_seconds
from bsprobe.report.escaping import Markdown
from bsprobe.report.markdown import table
from bsprobe.report.run.plots import COLOURS, write_figure
from bsprobe.storage.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

_NAMES = {
    "lightning-power": "Lightning, power",
    "lightning-binsearch": "Lightning, binsearch",
    "accelerate": "accelerate",
    "autobatch": "AutoBatch's method (re-created)",
    "bsprobe": "bsprobe",
}
_MOST_SHOWN = 70
"""Characters of a message shown in the table."""
_NO = Markdown("**no**")

Entry = dict[str, Any]


def write_raw(raw: Entry, folder: Path) -> None:
    """Write `peers.json`, after each tool, so that a later failure loses nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "peers.json", (json.dumps(raw, indent=1) + "\n").encode())


def write_reports(raw: Entry, folder: Path) -> None:
    """Write `peers.md`, `peers.png` and `peers.svg`."""
    write_atomically(folder / "peers.md", markdown(raw).encode())
    style: dict[Any, Any] = {"svg.hashsalt": "bsprobe", "font.size": 10.0}
    with mpl.rc_context(style):
        write_figure(plot(raw), folder / "peers")


def markdown(raw: Entry) -> str:
    """Return the whole report as markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in raw["environment"].items())
    how = (
        "Rebuild it with one command, in an environment with the extra `peers` "
        f"(`pip install -e '.[peers]'`):\n\n```sh\n{raw['command']}\n```"
    )
    what = (
        f"{raw['model']} at {raw['resolution']}, fp32, SGD, under a limit of {raw['limit']}. Every "
        "tool trains the same network with the same loss and optimizer, with its own defaults, in "
        "its own process; afterwards bsprobe runs each answer, and one image more, in fresh "
        "processes. Times are those of the whole command, including the start of Python, on a "
        "shared machine: treat them as orders of magnitude, and prefer CPU time to wall time. "
        f"{versions}."
    )
    parts = ["# Batch size finders, side by side (measured)", how, what]
    for device in dict.fromkeys(entry["device"] for entry in raw["found"]):
        here = [entry for entry in raw["found"] if entry["device"] == device]
        parts += [f"## On {device}", _found_table(here), _verdicts(here)]
    parts += ["![what each tool found](peers.png)", _DEFINITIONS, _messages(raw["messages"])]
    parts += ["## What they printed last", *[_printed(entry) for entry in raw["found"]]]
    return "\n\n".join(part for part in parts if part) + "\n"


def _found_table(found: list[Entry]) -> str:
    header = (
        "tool", "batch", "ran in its search", "fits in a fresh process", "one more fails",
        "given away", "trials", "took", "CPU time", "trained on in the same process",
    )  # fmt: skip
    rows = [
        (
            _NAMES[entry["tool"]],
            str(entry["answer"] if entry["answer"] is not None else "none"),
            _yes(entry["ran_answer"] if entry["answer"] else None),
            _yes(entry["answer_fits"]),
            _yes(entry["next_fails"]),
            _given_away(entry),
            str(entry["trials"]),
            format_seconds(entry["seconds"]),
            format_seconds(entry["cpu_seconds"]),
            _end(entry),
        )
        for entry in found
    ]
    return table(header, rows)


def _end(entry: Entry) -> str:
    if entry["tool"] == "bsprobe":
        return "not applicable"
    return "yes" if entry["end"] == "trained" else _NO


def _yes(value: bool | None) -> str:  # noqa: FBT001 - a fact to print
    return "-" if value is None else "yes" if value else _NO


def _given_away(entry: Entry) -> str:
    if not entry["answer"] or not entry["largest"]:
        return "-"
    if entry["answer"] > entry["largest"]:
        return f"{entry['answer'] - entry['largest']} too many"
    return f"{1 - entry['answer'] / entry['largest']:.0%}"


def _verdicts(found: list[Entry]) -> str:
    """Return the sentences that follow from the figures, whichever tool they favour."""
    lines = []
    ours = next(entry for entry in found if entry["tool"] == "bsprobe")
    others = [entry for entry in found if entry["tool"] != "bsprobe"]
    for entry in others:
        name = _NAMES[entry["tool"]]
        if entry["answer"] is None:
            left = format_bytes(entry["held_bytes"][-1] - entry["held_bytes"][0])
            lines.append(
                f"{name} found nothing: {_code(entry['end'])}. When its last trial began, earlier "
                f"ones had left {left} in its process."
            )
            continue
        if not entry["ran_answer"]:
            lines.append(f"{name} answers with a batch that its search never trained with.")
        if entry["answer_fits"] is False:
            lines.append(f"{name}'s answer does not fit in a fresh process.")
        if entry["end"] != "trained":
            lines.append(
                f"{name} could not train with its answer in the process of its search: "
                f"{_code(entry['end'])}."
            )
    for what, key in (("CPU time", "cpu_seconds"), ("trials", "trials")):
        better = [e for e in others if e["answer"] and e[key] < ours[key]]
        if better:
            names = " and ".join(f"{_NAMES[e['tool']]} ({_amount(e, key)})" for e in better)
            lines.append(f"In {what} bsprobe ({_amount(ours, key)}) loses to {names}.")
    fit = [e for e in others if e["answer_fits"] and e["answer"] == ours["answer"]]
    if fit:
        names = " and ".join(_NAMES[e["tool"]] for e in fit)
        lines.append(f"{names} found the same batch as bsprobe.")
    return "\n".join(f"- {line}" for line in lines)


def _amount(entry: Entry, key: str) -> str:
    return format_seconds(entry[key]) if key == "cpu_seconds" else str(entry[key])


def _code(text: str) -> str:
    return "`" + text.replace("`", "'")[:200].rstrip(".") + "`"


_DEFINITIONS = """\
*Batch* is the batch that the tool recommends; for bsprobe it is the proven largest (its report \
also names a safe one). *Ran in its search*: an optimizer update at that batch was completed \
before it was given as the answer. *Given away*: share of the largest batch that is not used. \
*Trials*: batches started; for bsprobe this includes the trial of its recommendation. *Trained \
on*: three more steps at the answer in the process of the search, as these tools do; bsprobe runs \
each trial in its own process. AutoBatch itself refuses the CPU and returns its default; here its \
method gets resident memory instead of reserved memory.

The memory that a search in one process leaves behind (`held_bytes` in `peers.json`: memory \
counted by the limit when each trial begins) depends on the device. On the CPU, oneDNN keeps \
compiled kernels for every shape that was tried. Memory that a failed `backward()` held was seen \
to stay, even after a garbage collection, until a later `backward()` ended. A search downwards in \
one process is affected by both. This does not apply to CUDA, which has neither these kernels nor \
`backward()` in the calling thread."""


def _messages(messages: list[Entry]) -> str:
    counts = [
        f"Of {len(of)} messages that mean *{meaning}*, these are recognised as out of memory: "
        f"{sum(m['accelerate'] for m in of)} by accelerate, "
        f"{sum(m['lightning'] for m in of)} by Lightning, {sum(m['bsprobe'] == 'yes' for m in of)} "
        f"by bsprobe (and {sum(m['bsprobe'] == 'probable' for m in of)} as probable)."
        for meaning in dict.fromkeys(m["meaning"] for m in messages)
        for of in [[m for m in messages if m["meaning"] == meaning]]
    ]
    rows = [
        (
            _cell(m["message"]),
            m["meaning"],
            "yes" if m["accelerate"] else "no",
            "yes" if m["lightning"] else "no",
            m["bsprobe"],
        )
        for m in messages
    ]
    body = table(("message", "means", "accelerate", "Lightning", "bsprobe"), rows)
    return (
        "## Messages recognised as out of memory\n\nThe messages are the ones that bsprobe "
        "is tested with (`tests/records/test_failures.py`), which favours bsprobe; each is the "
        "text of a RuntimeError. bsprobe confirms a *probable* one only if a smaller batch then "
        "succeeds. A kernel limit and a bug are not out of memory, and a smaller batch does not "
        "help against a bug.\n\n"
        + "\n".join(f"- {line}" for line in counts)
        + f"\n\n<details><summary>All {len(messages)} messages</summary>\n\n{body}\n\n</details>"
    )


def _cell(text: str) -> str:
    shown = text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"
    return Markdown("`" + shown.replace("|", "\\|").replace("`", "'") + "`")


def _printed(entry: Entry) -> str:
    title = f"{_NAMES[entry['tool']]}, {entry['device']}"
    body = entry["printed"].replace("```", "'''") or "(nothing)"
    return f"<details><summary>{title}</summary>\n\n```text\n{body}\n```\n\n</details>"


def plot(raw: Entry) -> Figure:
    """Plot the batch that each tool recommends against the largest that runs."""
    found = raw["found"]
    shown = list(dict.fromkeys(entry["device"] for entry in found))
    figure = Figure(figsize=(8.0, 0.6 + 2.4 * len(shown)), layout="constrained")
    figure.suptitle(
        f"Batch found for {raw['model']} at {raw['resolution']}, {raw['limit']}  [measured]",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    for axes, device in zip(figure.subplots(len(shown), squeeze=False)[:, 0], shown, strict=True):
        here = [entry for entry in found if entry["device"] == device][::-1]
        for row, entry in enumerate(here):
            answer = entry["answer"] or 0
            sound = entry["answer_fits"] and entry["end"] == "trained"
            hatch = "" if sound else "////"
            colour = COLOURS[0] if entry["tool"] == "bsprobe" else COLOURS[5]
            axes.barh(row, answer, color=colour, hatch=hatch, edgecolor="white", height=0.7)
            label = f" {entry['answer'] or 'none'}, {format_seconds(entry['cpu_seconds'])} of CPU"
            axes.text(answer, row, label, va="center", fontsize=9)
        largest = max(entry["largest"] or 0 for entry in here)
        axes.axvline(largest, color="#444444", lw=1.2)
        axes.set_title(
            f"on {device}; line: the largest that runs ({largest}); hatched: did not train on, "
            "or does not fit",
            loc="left",
            fontsize=8,
            color="#444444",
        )
        axes.set_yticks(range(len(here)), [_NAMES[entry["tool"]] for entry in here], fontsize=9)
        axes.set_xlim(0, 1.3 * max(largest, *[entry["answer"] or 0 for entry in here]))
        axes.set_xlabel("batch size (images per forward pass)")
        axes.spines[["top", "right"]].set_visible(False)
    return figure
