"""The report of a study as markdown: the answer, the evidence, and the folded log."""

from collections.abc import Sequence

from bsprobe.records.units import format_bytes, format_rate, format_seconds
from bsprobe.report.escaping import cleaned, inline, paragraph
from bsprobe.report.markdown import environment_section, fenced, folded, table
from bsprobe.study.records import Chance, Study, TrainingResult
from bsprobe.study.report import sentences
from bsprobe.study.verdict import BatchSummary, Verdict
from bsprobe.training.cityscapes.labels import CLASSES


def render(study: Study, *, plots: Sequence[str], snippet: str | None) -> str:
    """Render the report.

    Args:
        study: The study.
        plots: Names of the plots in the folder of the report, without suffix.
        snippet: Python code of the recommended training; None if nothing is recommended.
    """
    study = cleaned(study)
    found, chosen = sentences.chosen_of(study)
    result = next((t.result for t in study.trainings if t.result is not None), None)
    parts = [
        f"# Batch study of {inline(sentences.subject(study.settings))}",
        f"On {inline(study.device.name)}, {study.device.source}.",
        f"**{inline(sentences.answer(study, chosen))}**",
        _batches(study, found, chosen, result),
        _plot("batches", plots),
        "## Learning curves",
        _plot("curves", plots),
        _noise(chosen),
        _loading(study, plots),
        "## Notes\n\n" + "\n".join(f"- {paragraph(line)}" for line in sentences.caveats(study)),
        _snippet(snippet),
        folded("The classes at the end", _classes(found)),
        folded("The trainings", _log(study)),
        environment_section(study.device, study.environment),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _plot(name: str, plots: Sequence[str]) -> str:
    return f"![{name}]({name}.png)" if name in plots else ""


def _batches(
    study: Study,
    found: Sequence[BatchSummary],
    chosen: Verdict | None,
    result: TrainingResult | None,
) -> str:
    header = (
        "effective batch", "micro x accumulation", "learning rate", "updates", "mean IoU",
        "pixel accuracy", "validation loss", "training took", "images/s", "peak memory",
        "noise scale",
    )  # fmt: skip
    rows = [_row(summary, chosen) for summary in found]
    if result is not None:
        rows.append(_chance_row(result.chance))
    seeds = len(study.settings.seeds)
    over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    data = (
        f" There are {result.training_images} training and {result.validation_images} validation "
        f"images, normalised as {result.input_normalisation}."
        if result is not None
        else ""
    )
    return (
        f"## After {study.settings.images_seen} training images\n\n{table(header, rows)}\n\n"
        f"Figures: {over}, of the last validation: one confusion matrix over all validation "
        "images, predictions at the size of the labels. The star marks the highest mean IoU. "
        "*Best constant* is the same class for every pixel, chosen with the validation labels. "
        "A network must beat it." + data
    )


def _row(summary: BatchSummary, chosen: Verdict | None) -> tuple[str, ...]:
    plan = summary.trainings[0].spec.plan
    star = "★ " if chosen is not None and summary.batch == chosen.best.batch else ""
    lost = len(summary.trainings) - summary.finished
    rate = summary.images_per_second
    return (
        f"{star}{summary.batch}" + (f" ({lost} of {len(summary.trainings)} lost)" if lost else ""),
        f"{plan.micro_batch} x {plan.accumulation_steps}",
        f"{plan.learning_rate:.2e}",
        f"{plan.updates}, {plan.warmup_updates} warming up",
        sentences.spread(summary.mean_iou),
        sentences.spread(summary.pixel_accuracy),
        sentences.spread(summary.validation_loss),
        format_seconds(summary.seconds.mean) if summary.seconds is not None else "-",
        format_rate(rate) if rate is not None else "-",
        format_bytes(summary.peak_bytes) if summary.peak_bytes is not None else "-",
        sentences.noise_words(summary.noise),
    )


def _chance_row(chance: Chance) -> tuple[str, ...]:
    return (
        f"best constant ({chance.class_name})", "-", "-", "-", f"{chance.mean_iou:.3f}",
        f"{chance.pixel_accuracy:.3f}", f"{chance.loss:.3f}", "-", "-", "-", "-",
    )  # fmt: skip


def _noise(chosen: Verdict | None) -> str:
    if chosen is None:
        return ""
    return f"## Gradient noise\n\n{paragraph(sentences.noise_sentence(chosen.best))}"


def _loading(study: Study, plots: Sequence[str]) -> str:
    if study.loading is None:
        return ""
    header = ("setting", "loader alone", "training", "training from memory")
    rows = [
        (
            sentences.setting_words(rate),
            format_rate(rate.alone_images_per_second),
            format_rate(rate.fed_images_per_second),
            format_rate(study.loading.step_images_per_second),
        )
        for rate in study.loading.rates
    ]
    parts = [
        "## Data loader",
        paragraph(sentences.loading_sentence(study.loading, study.device)),
        _plot("loader", plots),
        f"Images per second:\n\n{table(header, rows)}",
    ]
    return "\n\n".join(part for part in parts if part)


def _snippet(snippet: str | None) -> str:
    if snippet is None:
        return ""
    code = fenced("python", snippet.removesuffix("\n"))
    return "## Train with it\n\nAlso in `snippet.py`.\n\n" + folded(
        "The starred row as Python", code
    )


def _classes(found: Sequence[BatchSummary]) -> str:
    """The last IoU of every class, in the first finished seed of each batch."""
    ends = {
        summary.batch: t.result.curve[-1].class_iou
        for summary in found
        for t in reversed(summary.trainings)
        if t.result is not None and t.result.diverged_at is None
    }
    count = max((len(iou) for iou in ends.values()), default=0)
    names = [label.name for label in CLASSES] + [f"class {n}" for n in range(len(CLASSES), count)]
    rows = [
        (
            names[index],
            *("-" if iou[index] is None else f"{iou[index]:.3f}" for iou in ends.values()),
        )
        for index in range(count)
    ]
    return "IoU in the first seed.\n\n" + table(("", *(f"batch {b}" for b in ends)), rows)


def _log(study: Study) -> str:
    header = ("training", "ended", "mean IoU", "pixel accuracy", "took")
    rows = []
    for training in study.trainings:
        end = training.result.curve[-1] if training.result is not None else None
        rows.append(
            (
                sentences.name_of(training),
                str(training.ended),
                f"{end.mean_iou:.4f}" if end else "-",
                f"{end.pixel_accuracy:.4f}" if end else "-",
                format_seconds(training.wall_seconds),
            )
        )
    return table(header, rows)
