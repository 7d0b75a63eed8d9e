"""Writing the files of a study's report."""

from dataclasses import replace
from pathlib import Path

from bsprobe.analysis.recommendation import BATCH_OF_UPDATES
from bsprobe.records.runs import TrainingPlan
from bsprobe.report.run.tables import to_csv
from bsprobe.report.snippet.snippet import Loader, fill
from bsprobe.storage.files import write_atomically
from bsprobe.study.records import Study
from bsprobe.study.report import markdown, plots, sentences, tables
from bsprobe.study.verdict import Verdict, recommended_loading


def write_study_report(study: Study, folder: Path) -> None:
    """Write the tables, the plots, the snippet and the report.

    Raises:
        FileError: A file cannot be written.
    """
    write_atomically(folder / "trainings.csv", to_csv(tables.trainings_table(study)))
    write_atomically(folder / "curves.csv", to_csv(tables.curves_table(study)))
    if study.loading is not None:
        write_atomically(folder / "loader.csv", to_csv(tables.loader_table(study)))
    names = plots.write_study_plots(study, folder)
    _, chosen = sentences.chosen_of(study)
    code = None if chosen is None else study_snippet(study, chosen)
    if code is not None:
        write_atomically(folder / "snippet.py", code.encode())
    text = markdown.render(study, plots=names, snippet=code)
    write_atomically(folder / "report.md", text.encode())


def study_snippet(study: Study, chosen: Verdict) -> str:
    """Python code of the recommended training, with the recommended data loader."""
    settings, best = study.settings, chosen.best
    target = settings.target
    result = next(t.result for t in best.trainings if t.result is not None)
    plan = _with_groups(best.trainings[0].spec.plan, result.model.groups)
    made, reached = study.device.source.capitalize(), sentences.spread(best.mean_iou)
    seen = settings.images_seen
    return fill(
        settings.variant,
        plan,
        paragraphs=(
            f"{sentences.subject(settings)}, as bsprobe's study recommends.",
            f"{made} on {study.device.name}: mean IoU {reached} after {seen} images.",
        ),
        target=target,
        base_updates=f"{seen / (target.base_batch or BATCH_OF_UPDATES):g}",
        device_kind=study.device.kind,
        loader=_loader(study),
        facts=result.model,
    )


def _with_groups(plan: TrainingPlan, groups: tuple[tuple[str, float], ...]) -> TrainingPlan:
    rates = tuple((name, plan.known_rate * factor) for name, factor in groups)
    return replace(plan, group_learning_rates=rates)


def _loader(study: Study) -> Loader:
    if study.loading is None:
        return Loader()
    setting = recommended_loading(study.loading).setting
    return Loader(
        workers=setting.workers,
        pin_memory=setting.pin_memory,
        prefetch_factor=setting.prefetch_factor,
    )
