"""The result on standard output: plain text that fits 80 columns and survives a pipe."""

import itertools
import textwrap
from collections.abc import Sequence

from bsprobe.records.runs import Run, VariantResult
from bsprobe.records.variants import labels
from bsprobe.report.run import advice, sentences

WIDTH = 80
_COLUMNS = ("", "largest", "safe", "use", "effective", "LR", "peak", "images/s")


def render(run: Run) -> str:
    """The whole result as text."""
    parts = ["\n".join(_wrapped(line) for line in sentences.headline(run.device, run.settings))]
    names = labels(run.settings.variants)
    parts.append("\n".join(_ladder(run, result, names[result.variant]) for result in run.results))
    title = f"{sentences.wanted(run.settings)}{sentences.of_whom(run.device)}:"
    recipe = sentences.about_recipe(run.settings) if run.best is not None else []
    below = [_wrapped(line) for line in recipe]
    parts.append("\n".join([_wrapped(title), recommendation_table(run), *below]))
    if notes := _notes(run):
        parts.append("\n".join(notes))
    return "\n\n".join(parts) + "\n"


def recommendation_table(run: Run) -> str:
    """Largest, safe and the plan, one variant a row; a star marks the best of each norm."""
    names = labels(run.settings.variants)
    rows = [_COLUMNS]
    for result in run.results:
        item = result.recommendation
        star = "* " if item is not None and item.starred else "  "
        name = star + names[result.variant]
        has_run = result.boundary.largest is not None
        largest = sentences.largest_words(result.boundary) if has_run else "-"
        if item is None:
            rows.append((name, largest, "-", "-", "-", "-", "-", "-"))
            continue
        rows.append(
            (
                name,
                largest,
                f"{item.safe}",
                sentences.plan_words(item.plan),
                f"{item.plan.effective_batch}",
                sentences.short_rate_words(item.plan, item.variant, run.settings.target),
                sentences.peak_share(item, run.device),
                sentences.throughput(item),
            )
        )
    return "\n".join(fitted(rows))


def fitted(rows: Sequence[Sequence[str]]) -> list[str]:
    """As `aligned`, one text a row; a first cell that is too long for the width goes on below."""
    others = list(zip(*rows, strict=True))[1:]
    room = WIDTH - sum(2 + max(map(len, column)) for column in others)
    lines, heights = [], []
    for first, *rest in rows:
        head, *more = textwrap.wrap(first, room, subsequent_indent="  ") or [""]
        lines += [(head, *rest), *[(part, *[""] * len(rest)) for part in more]]
        heights.append(1 + len(more))
    done = iter(aligned(lines).splitlines())
    return ["\n".join(itertools.islice(done, height)) for height in heights]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as columns: the first left-aligned, the others right-aligned."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _ladder(run: Run, result: VariantResult, name: str) -> str:
    tried = [trial for trial in run.trials if trial.spec.variant == result.variant]
    words = [*sentences.ladder(tried), "-> " + sentences.verdict(result.boundary)]
    # Words that belong together must not be torn apart at the end of a line.
    glued = [word.replace(" ", "\0") for word in words]
    line = f"{name}:  " + "  ".join(glued)
    return textwrap.fill(line, WIDTH, subsequent_indent="    ", break_long_words=False).replace(
        "\0", " "
    )


def _notes(run: Run) -> list[str]:
    names = labels(run.settings.variants)
    notes: dict[str, list[str]] = {}
    for result in run.results:
        for sentence in (*_sentences(result), *_prediction(run, result)):
            notes.setdefault(sentence, []).append(names[result.variant])
    lines = [
        _wrapped(f"Note  {sentence}", indent="      ")
        for sentence in sentences.amp_against_fp32(run)
    ]
    for sentence, of in notes.items():
        whom = "" if len(of) == len(run.results) else f"{', '.join(of)}: "
        lines.append(_wrapped(f"Note  {whom}{sentence}", indent="      "))
    return lines


def _prediction(run: Run, result: VariantResult) -> list[str]:
    sentence = sentences.predicted_beside_measured(run, result)
    return [] if sentence is None else [sentence]


def _sentences(result: VariantResult) -> tuple[str, ...]:
    if result.recommendation is not None:
        return result.recommendation.caveats
    return (advice.without_recommendation(result),)


def _wrapped(text: str, *, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
