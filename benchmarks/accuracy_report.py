"""The accuracy of predictions as markdown and a plot."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.accuracy_figures import (
    PEAKS,
    Accuracy,
    CheckedTrial,
    Spread,
    aims,
    errors_of,
    reserved,
    spread,
)
from benchmarks.fake_reports import FAKE_TITLE
from benchmarks.truth_versions import JUDGE
from benchmarks.validation.history import Action, load_history
from benchmarks.validation.replay import replay_addresses
from bsprobe.records.units import GIB, format_bytes
from bsprobe.report.markdown import table
from bsprobe.report.run.plots import COLOURS, MARKERS, write_figure
from bsprobe.storage.files import write_atomically

NAME = "accuracy"
_PUBLISHED_REPORT = Path(__file__).parents[1] / "reports" / "published"
_TRACES = Path(__file__).parents[1] / "tests" / "data" / "traces"
_COMMAND = "PYTHONPATH=. python benchmarks/accuracy.py"
_WORST_SHOWN = 10
_PUBLISHED = (
    (
        "xMem (arXiv 2510.21048, 2025)",
        "median error 3.59 %, 8.87 % of its estimates fail",
        "fp32 classifiers at 86x86",
    ),
    ("DNNMem (Gao et al., ESEC/FSE 2020)", "median error 13.8 %", "-"),
    (
        "sums over fake tensors, with no allocator",
        "median error 46 %, of what the device holds",
        "1017 models of timm",
    ),
    (
        "PyTorch's MemTracker",
        "its own test allows 10 %",
        "what is allocated; not what is reserved",
    ),
)
"""Published errors of other tools, or errors that follow from what they published."""
_GROUPS: tuple[tuple[str, Callable[[CheckedTrial], str]], ...] = (
    ("GPU", lambda each: each.machine),
    ("model", lambda each: each.trial.spec.variant.model),
    ("size", lambda each: str(each.trial.spec.variant.resolution)),
    ("norm", lambda each: each.trial.spec.variant.norm),
    ("precision", lambda each: each.trial.spec.variant.precision),
    ("layout", lambda each: each.trial.spec.variant.memory_format),
)

_LEARNT = {
    "nvidia-h100-80gb-hbm3": (
        "Two rules were read off these recordings, so the figures above describe the rules as much "
        "as they test them: the 1x1 convolutions that run as matrix products "
        "(`bsprobe/simulate/cudnn/pointwise.py`), and the workspaces of kernels that cut a sum "
        "into slices (`bsprobe/simulate/cudnn/slices.py`). Before the first, at commit 232d585, "
        "the peaks reserved of the 66 steps recorded by then were within 0.99% in the median and "
        "6.02% at the 90th percentile, 29.14% of the workspaces were equal, and the boundaries "
        "were predicted as 39 and 16. Before the second, at commit 293a9ba, those of all 179 steps "
        "on both cards were within 0.40% and 5.44%, and 69.13% of the workspaces were equal. "
        "`cudnn.benchmark` in fp32 is not predicted: while it timed plans, the first step took "
        "65 GiB more, and no later step did."
    ),
    "nvidia-h200": (
        "The rule on slices was fitted to this card's answers too. The boundaries of DeepLabV2 "
        "were predicted as 36, 36, 71 and 29 before they were measured."
    ),
}
"""Notes on machines whose recordings led to a rule of the prediction."""


def write(found: Accuracy, folder: Path) -> str:
    """Write the report, and the plot if there are errors to plot; return the first line."""
    folder.mkdir(parents=True, exist_ok=True)
    text = render(found)
    write_atomically(folder / f"{NAME}.md", text.encode())
    if found.errors(reserved):
        _write_plot(found, folder / NAME)
    return text.splitlines()[0]


def render(found: Accuracy) -> str:
    """Return the report as markdown; its first line is the headline."""
    parts = [f"# {headline(found)}"]
    if found.errors(reserved):
        parts.append(
            f"Written by `{_COMMAND}`, which `{JUDGE} TRUTH` runs in the recorded versions."
        )
        parts += _figures(found)
    else:
        parts.append(f"Written by `{_COMMAND}` from what stands in `tests/data/truth`.")
        parts += _without_figures()
    parts += [
        f"## What was learnt from {machine}\n\n{learnt}"
        for machine, learnt in _LEARNT.items()
        if any(machine == each.machine for each in found.trials)
    ]
    parts += ["## What others have published", _published()]
    return "\n\n".join(parts) + "\n"


def headline(found: Accuracy) -> str:
    """Return the accuracy in one line; mark it if any of it was recorded on a fake GPU."""
    accuracy = _accuracy_line(found)
    return f"{FAKE_TITLE}: {accuracy}" if found.is_fake else accuracy


def _accuracy_line(found: Accuracy) -> str:
    errors = spread(found.errors(reserved))
    if errors is None:
        return "Accuracy: no prediction has been held against a GPU yet"
    exact = sum(each.difference == 0 for each in found.boundaries)
    gpus = len({each.machine for each in found.trials})
    boundaries = f"; {exact} of {len(found.boundaries)} boundaries exact"
    return (
        f"Accuracy: peak reserved within {errors.median:.2%} in the median, "
        f"{abs(errors.worst):.2%} at worst, of {errors.count} training steps measured on {gpus} "
        f"GPU{'s' if gpus > 1 else ''}{boundaries if found.boundaries else ''}"
    )


def _without_figures() -> Iterator[str]:
    yield (
        "Nobody has run `benchmarks/record_truth.py` on a GPU yet, so there are **no errors to "
        "show**. Until there are, a prediction is what follows from the rules below, and nothing "
        "more: `bsprobe run` on the GPU itself is what counts."
    )
    yield "## What is known without a GPU"
    yield "\n".join(f"- {line}" for line in _known())


def _known() -> Iterator[str]:
    histories = [load_history(path) for path in sorted(_TRACES.glob("*.json.gz"))]
    exact = sum(replay_addresses(each) == each.result for each in histories)
    count = sum(step.action is Action.ALLOCATE for each in histories for step in each.steps)
    yield (
        f"**The allocator.** {exact} of {len(histories)} histories that PyTorch recorded on other "
        f"people's GPUs are reproduced address by address, {count:,} allocations in all. Nine "
        "more, which nobody licensed for copying, are replayed by "
        "`tests/benchmarks/test_replay.py` where they are at hand."
    )
    yield (
        "**The forward pass.** It runs, operator by operator, with the types and layouts that fake "
        "CUDA tensors have in it: `tests/simulate/test_cuda_semantics.py`. What kernels allocate "
        "inside, and the backward pass, is read from PyTorch's source."
    )
    yield (
        "**Workspaces.** cuDNN itself says, for a card that is described to it, what its plans "
        "take; that PyTorch runs the first that builds is read from its source. Which properties "
        "of a card matter: `benchmarks/workspaces.py sensitivity`."
    )
    yield (
        "**Memory outside the allocator.** What people with the card have published, or an "
        "estimate that says so: `bsprobe gpus`."
    )
    yield _ladder()


def _ladder() -> str:
    """Summarise the batches that timm's benchmark ran, from the results of published.py."""
    with (_PUBLISHED_REPORT / "timm.csv").open(encoding="utf-8", newline="") as file:
        verdicts = [row["verdict"] for row in csv.DictReader(file) if row["verdict"]]
    right = verdicts.count("right") / len(verdicts)
    return (
        f"**What others measured.** Of {len(verdicts)} networks whose training batch timm lowered "
        f"on an RTX 3090 until it ran, the same batch is predicted for {right:.0%}, a larger one "
        f"for {verdicts.count('too high') / len(verdicts):.0%}: "
        "[reports/published](published/report.md)."
    )


def _figures(found: Accuracy) -> Iterator[str]:
    judged = [each for each in found.trials if not each.is_judged_rightly]
    rows = [_spread_row(name, spread(found.errors(peak))) for name, peak in PEAKS.items()]
    yield f"![Errors of predicted peaks]({NAME}.png)"
    yield "## The project's aims"
    yield table(("", "aim", "found", "of", ""), list(_aim_rows(found)))
    yield "## Versions"
    yield from _version_parts(found)
    yield "## Peaks"
    yield table(_SPREAD_HEADER, [row for row in rows if row is not None])
    yield (
        "Errors are (predicted - measured) / measured; all but the worst without their sign. A "
        "GradScaler that skips its first updates makes first steps lighter than predicted."
    )
    yield f"Predicted to fit and did not, or the other way round: {len(judged)}" + (
        f" ({', '.join(each.trial.name for each in judged)})." if judged else "."
    )
    yield "## Peak reserved, by what was trained"
    yield table(_SPREAD_HEADER, list(_group_rows(found)))
    yield "## The largest errors"
    yield table(("configuration", "measured", "predicted", "error"), list(_worst_rows(found)))
    yield from _boundary_parts(found)
    yield from _request_parts(found)


def _aim_rows(found: Accuracy) -> Iterator[tuple[str, ...]]:
    for aim in aims(found):
        verdict = "met" if aim.is_met else "not met"
        yield (aim.what, f"{aim.aimed:.0%}", f"{aim.found:.2%}", str(aim.count), verdict)


def _version_parts(found: Accuracy) -> Iterator[str]:
    """Yield the versions that recorded and those that predicted."""
    yield table(
        ("", "recorded with", "predicted with"),
        [(each.name, str(each.recorded), str(each.predicted)) for each in found.machines],
    )
    for each in found.machines:
        if each.difference is not None:
            yield (
                f"The requests of {each.name} were **not compared**: what predicted them has "
                f"{each.difference}, and another cuDNN chooses other workspaces. "
                f"`{JUDGE} TRUTH` makes an environment with the recorded versions and compares "
                "them there. Peaks and boundaries are compared all the same; the other versions "
                "alone make predicted peaks several per cent larger or smaller."
            )


_SPREAD_HEADER = ("", "trials", "median", "90th percentile", "worst")


def _spread_row(name: str, found: Spread | None) -> tuple[str, ...] | None:
    if found is None:
        return None
    shares = (f"{found.median:.2%}", f"{found.ninetieth:.2%}", f"{found.worst:+.2%}")
    return (name, str(found.count), *shares)


def _group_rows(found: Accuracy) -> Iterator[tuple[str, ...]]:
    for title, key in _GROUPS:
        for value in sorted({key(each) for each in found.trials}):
            chosen = [each for each in found.trials if key(each) == value]
            row = _spread_row(f"{title}: {value}", spread(errors_of(chosen, reserved)))
            if row is not None:
                yield row


def _worst_rows(found: Accuracy) -> Iterator[tuple[str, ...]]:
    known = [(error, each) for each in found.trials if (error := each.error(reserved)) is not None]
    for error, each in sorted(known, key=lambda pair: -abs(pair[0]))[:_WORST_SHOWN]:
        assert each.predicted is not None  # noqa: S101 - there is an error
        assert each.trial.measurement is not None  # noqa: S101 - as above
        yield (
            each.trial.name,
            format_bytes(reserved(each.trial.measurement) or 0),
            format_bytes(reserved(each.predicted) or 0),
            f"{error:+.2%}",
        )


def _boundary_parts(found: Accuracy) -> Iterator[str]:
    checked = found.boundaries
    if not checked:
        return
    off_by_one = sum(abs(each.difference) == 1 for each in checked)
    too_high = sum(each.difference > 0 for each in checked)
    exact = sum(each.difference == 0 for each in checked)
    yield "## Boundaries"
    yield (
        f"Of {len(checked)} proven boundaries {exact} are predicted exactly, {off_by_one} are off "
        f"by one, {too_high} are too high."
    )
    yield table(
        ("", "memory", "measured", "predicted", "difference"),
        [
            (
                " ".join((v.model, str(v.resolution), v.precision, v.norm, v.memory_format)),
                format_bytes(each.capacity_bytes),
                str(each.measured),
                str(each.predicted),
                f"{each.difference:+d}" if each.difference else "0",
            )
            for each in checked
            for v in (each.variant,)
        ],
    )


def _request_parts(found: Accuracy) -> Iterator[str]:
    compared = [each.requests for each in found.trials if each.requests is not None]
    if not compared:
        return
    matched = sum(each.matched for each in compared)
    recorded = sum(each.recorded for each in compared)
    equal = sum(each.workspaces_equal for each in compared)
    convolutions = sum(each.convolutions for each in compared)
    yield "## Request by request"
    yield (
        f"Of {recorded:,} recorded allocations {matched:,} ({matched / recorded:.2%}) have the "
        f"predicted size in the predicted place; of {convolutions:,} convolutions {equal:,} "
        f"({equal / convolutions:.2%}) take the predicted workspace. "
        "`benchmarks/compare_requests.py` names the differences."
    )


def _published() -> str:
    return (
        table(("", "error", "of"), _PUBLISHED)
        + "\n\nNone of these evaluations has a segmentation network, and none counts cuDNN's "
        "workspaces."
    )


def _write_plot(found: Accuracy, path: Path) -> None:
    """Plot errors against measured peaks: one point per trial, one colour per norm."""
    with mpl.rc_context({"svg.hashsalt": "bsprobe", "svg.fonttype": "path"}):
        figure = Figure(figsize=(8.0, 4.5), layout="constrained")
        axes = figure.add_subplot()
        norms = sorted({each.trial.spec.variant.norm for each in found.trials})
        for norm, colour, marker in zip(norms, COLOURS, MARKERS, strict=False):
            points = [
                ((reserved(each.trial.measurement) or 0) / GIB, error * 100)
                for each in found.trials
                if each.trial.spec.variant.norm == norm
                and each.trial.measurement is not None
                and (error := each.error(reserved)) is not None
            ]
            x, y = [x for x, _ in points], [y for _, y in points]
            axes.scatter(x, y, s=18, color=colour, marker=marker, label=norm)
        axes.axhline(0, color="#888888", lw=0.8)
        axes.set_xlim(left=0)
        axes.set_xlabel("measured peak reserved, GiB")
        axes.set_ylabel("predicted - measured, %")
        title = "Errors of predicted peaks"
        title = f"{FAKE_TITLE}: {title}" if found.is_fake else title
        axes.set_title(title, loc="left", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        write_figure(figure, path)
