"""The result on standard output: plain text that fits 80 columns and survives a pipe."""

import itertools
import re
import textwrap
from collections.abc import Mapping, Sequence

from bsprobe.records.runs import Run, VariantResult
from bsprobe.records.variants import Variant
from bsprobe.report.escaping import cleaned
from bsprobe.report.run import legend, notes, script, sentences, train_with, validation

WIDTH = 80
_LEAST_NAME = 12
"""Characters of a line of a wrapped name at least, even if the table is then wider."""
_COLUMNS = ("", "largest", "safe", "use", "effective", "LR", "peak", "images/s")
_RATE = _COLUMNS.index("images/s")


def render(run: Run) -> str:
    """Return the whole result as text."""
    run = cleaned(run)
    parts = ["\n".join(_wrapped(line) for line in sentences.headline(run))]
    names = sentences.row_names(run.settings.variants)
    ladders = [line for result in run.results for line in _ladders(run, result, names)]
    parts.append("\n".join(ladders))
    title = f"{sentences.wanted(run)}{sentences.of_whom(run.device)}:"
    parts.append(f"{_wrapped(title)}\n{recommendation_table(run)}")
    if run.settings.validation is not None:
        parts.append(_validation(run))
    if run.best is not None:
        parts.append("\n".join(_legend(run)))
    if lines := _notes(run):
        parts.append("\n".join(lines))
    if last := train_with.terminal(run):
        *said, command = last
        parts.append("\n".join([*map(_wrapped, said), command]))
    return "\n\n".join(parts) + "\n"


def recommendation_table(run: Run) -> str:
    """Return largest, safe and the plan, one variant a row; a star marks the best of each norm."""
    names = sentences.row_names(run.settings.variants)
    rows = [_COLUMNS]
    for result in run.results:
        item = result.recommendation
        is_marked = item is not None and item.starred and len(run.results) > 1
        star = "* " if is_marked else "  "
        name = star + names[result.variant] + script.mark(run, result)
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
    return "\n".join(fitted([row if _is_timed(run) else row[:_RATE] for row in rows]))


def _validation(run: Run) -> str:
    """The sentences on the validation; for several variants a table as well."""
    lines = [_on(names, sentence) for names, sentence in validation.lines_of(run)]
    if len(run.results) > 1:
        names = sentences.row_names(run.settings.variants)
        is_searched = run.settings.seeks_validation_batch
        title = f"peak of validating {run.settings.validation_words}"
        rows: list[tuple[str, ...]] = [("", title, *(["largest batch"] if is_searched else []))]
        for result in run.results:
            found = [validation.largest(result)] if is_searched else []
            rows.append((f"  {names[result.variant]}", validation.share(result, run), *found))
        lines = [*fitted(rows), "", *lines]
    return "\n".join(lines)


def _is_timed(run: Run) -> bool:
    """Return whether any recommended step has a throughput; predicted ones have none."""
    return any(
        r.recommendation and sentences.throughput(r.recommendation) != "-" for r in run.results
    )


def _legend(run: Run) -> list[str]:
    """The meaning of the columns, a line each, and of the learning rates."""
    terms = {"largest", "safe", "use", "peak"}
    terms |= {"images/s"} if _is_timed(run) else set()
    terms |= {"*"} if len(run.results) > 1 else set()
    lines = [f"{term}: {meaning}" for term, meaning in legend.meanings(run, terms)]
    return [_wrapped(line, indent="    ") for line in (*lines, *legend.about_recipe(run.settings))]


def fitted(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as `aligned` does, one text a row; long first cells are wrapped.

    A label is wrapped between its parts, not inside of one; a name after its comma.
    """
    others = list(zip(*rows, strict=True))[1:]
    room = max(_LEAST_NAME, WIDTH - sum(2 + max(map(len, column)) for column in others))
    lines, heights = [], []
    for first, *rest in rows:
        # A space within a part of a label is no place to break at.
        has_parts = " / " in first or ", " in first
        glued = re.sub(r"(?<=[^/, ]) (?=[^ ])", "\0", first) if has_parts else first
        wrapped = textwrap.wrap(glued, room, subsequent_indent="  ") or [""]
        head, *more = (line.replace("\0", " ") for line in wrapped)
        lines += [(head, *rest), *[(part, *[""] * len(rest)) for part in more]]
        heights.append(1 + len(more))
    done = iter(aligned(lines).splitlines())
    return ["\n".join(itertools.islice(done, height)) for height in heights]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as columns: the first left-aligned, the others right-aligned."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _ladders(run: Run, result: VariantResult, names: Mapping[Variant, str]) -> list[str]:
    """The trials of a variant, and those of its search for the largest validation batch."""
    tried = [trial for trial in run.trials if trial.spec.variant == result.variant]
    name, found = names[result.variant], result.validation_boundary
    lines = [_ladder(name, sentences.ladder(tried), sentences.result_words(result))]
    if found is not None:
        words = validation.ladder(run, result)
        lines.append(_ladder("    validation", words, sentences.verdict(found)))
    return lines


def _ladder(name: str, tried: Sequence[str], verdict: str) -> str:
    words = [*tried, f"-> {verdict}"]
    # A line must not break within a trial.
    glued = [word.replace(" ", "\0") for word in words]
    line = f"{name}:  " + "  ".join(glued)
    filled = textwrap.fill(
        line, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    return filled.replace("\0", " ")


def _notes(run: Run) -> list[str]:
    lines = []
    found = (*notes.lines_of(run), *notes.predictions(run), *notes.unguided(run))
    for names, sentence in found:
        lines.append(_on(names, sentence, "Note  "))
    return lines


def _on(names: Sequence[str], sentence: str, begin: str = "") -> str:
    """A sentence on some variants, or on all if none is named."""
    whom = f"{', '.join(names)}: " if names else ""
    return _wrapped(f"{begin}{whom}{sentence}", indent=" " * len(begin))


def _wrapped(text: str, *, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
