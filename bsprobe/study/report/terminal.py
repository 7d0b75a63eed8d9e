"""The result of a study for the terminal: plain text in 80 columns."""

import textwrap

from bsprobe.records.units import format_bytes, format_rate
from bsprobe.report.escaping import cleaned
from bsprobe.report.run.terminal import WIDTH, aligned
from bsprobe.study.records import Study
from bsprobe.study.report import sentences
from bsprobe.study.verdict import BatchSummary, Verdict

_COLUMNS = ("  batch", "use", "LR", "mIoU", "images/s", "peak", "noise scale")


def render(study: Study) -> str:
    """Render the result as text."""
    study = cleaned(study)
    found, chosen = sentences.chosen_of(study)
    parts = [
        "\n".join(_wrapped(line) for line in _headline(study)),
        aligned([_COLUMNS, *(_row(each, chosen) for each in found), *_chance_row(study)]),
        _wrapped(sentences.answer(study, chosen)),
    ]
    if chosen is not None:
        parts.append(_wrapped(sentences.noise_sentence(chosen.best)))
        parts.append(_wrapped(sentences.loading_sentence(study.loading, study.device)))
    notes = [_wrapped(f"Note  {line}", indent="      ") for line in sentences.caveats(study)]
    parts.append("\n".join(notes))
    return "\n\n".join(parts) + "\n"


def _headline(study: Study) -> list[str]:
    settings = study.settings
    result = next((t.result for t in study.trainings if t.result is not None), None)
    lines = [
        f"{study.device.name}  [{study.device.source}]",
        f"{sentences.subject(settings)}, {settings.variant.optimizer.upper()}",
    ]
    if result is not None:
        lines.append(
            f"{result.training_images} training and {result.validation_images} validation images; "
            f"each training sees {settings.images_seen}"
        )
    return lines


def _row(summary: BatchSummary, chosen: Verdict | None) -> tuple[str, ...]:
    plan = summary.trainings[0].spec.plan
    star = "* " if chosen is not None and summary.batch == chosen.best.batch else "  "
    lost = len(summary.trainings) - summary.finished
    rate = summary.images_per_second
    return (
        f"{star}{summary.batch}",
        f"{plan.micro_batch} x {plan.accumulation_steps}",
        f"{plan.learning_rate:.1e}",
        sentences.spread(summary.mean_iou) + (f" ({lost} lost)" if lost else ""),
        format_rate(rate) if rate is not None else "-",
        format_bytes(summary.peak_bytes) if summary.peak_bytes is not None else "-",
        sentences.noise_words(summary.noise),
    )


def _chance_row(study: Study) -> list[tuple[str, ...]]:
    """The best constant prediction, as the last row."""
    chance = next((t.result.chance for t in study.trainings if t.result is not None), None)
    if chance is None:
        return []
    return [
        ("  constant", "", "", f"{chance.mean_iou:.3f}", "", "", ""),
    ]


def _wrapped(text: str, *, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent)
