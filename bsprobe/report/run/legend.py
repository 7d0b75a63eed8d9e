"""The meanings of the columns of a recommendation, and the origin of its learning rates."""

from collections.abc import Collection

from bsprobe.analysis.recommendation import recipe_of, search_trials
from bsprobe.records.failures import Outcome
from bsprobe.records.runs import REFERENCE, Run, Settings
from bsprobe.records.scripts import ACCUMULATION
from bsprobe.records.trials import Source
from bsprobe.report.run import script

_TOO_SMALL = (
    "the network does not train with so few images; BatchNorm needs more than one value per channel"
)


def meanings(run: Run, terms: Collection[str]) -> list[tuple[str, str]]:
    """Return the meaning of the columns of the recommendation.

    Args:
        run: The run.
        terms: The columns that the table has; `*` for its star.
    """
    is_measured = run.device.source is Source.MEASURED
    headroom = f"{run.settings.target.headroom:.0%}"
    processes = " x processes" if run.processes > 1 else ""
    retries = any(trial.outcome is Outcome.FITS_WITH_RETRIES for trial in run.trials)
    is_open = any(r.recommendation and not r.boundary.is_exact for r in run.results)
    has_norms = len({variant.norm for variant in run.settings.variants}) > 1
    meanings = {
        "largest": (
            f"the largest batch {'that ran' if is_measured else 'predicted to run'}"
            f"{', with allocator retries if needed' if retries else ''}"
            f"{_multiples(run)}{'; >=: larger ones may run' if is_open else ''}"
        ),
        "safe": (
            f"the largest batch{' without retries' if retries else ''} that leaves {headroom} of "
            "the memory free"
            f"{_where_not_run(run)}"
        ),
        "best": "the smallest batch within 2% of the highest images/s, at most the safe one",
        "use": (
            f"micro-batch x accumulation steps{processes}, "
            f"{'run' if is_measured else 'predicted'} as a whole step"
        ),
        "peak": "the peak memory of that step, as a share of the usable memory",
        "validation": (
            f"the peak of {run.settings.validation_words} after that step, with all that training "
            "keeps, as a share of the usable memory"
        ),
        "validation batch": "the largest that runs after that step",
        "images/s": (
            "of the median step; ± is half the range of single steps"
            if run.settings.script is None
            else "over the steps after the warm-up; ± is half the range of equal parts of them"
        ),
        "*": (
            f"the {'fastest' if is_measured else 'best'} setting"
            f"{' with its norm; another norm is another model' if has_norms else ''}"
        ),
    }
    return [
        *((term, meaning) for term, meaning in meanings.items() if term in terms),
        *_meanings_beside(run, terms),
    ]


def _meanings_beside(run: Run, terms: Collection[str]) -> list[tuple[str, str]]:
    """The meanings of an outcome in the ladder and of figures of several processes."""
    lines = script.meaning_of_unseen(run)
    if any(trial.outcome is Outcome.BATCH_TOO_SMALL for trial in run.trials):
        lines.append((Outcome.BATCH_TOO_SMALL, _TOO_SMALL))
    if run.processes > 1:
        images = "; images/s are of all processes" if "images/s" in terms else ""
        lines.append(
            ("processes", f"batches and peaks are of the process that takes the most{images}")
        )
    return lines


def _multiples(run: Run) -> str:
    multiple = run.settings.batch_multiple
    return f"; multiples of {multiple} were tried" if multiple > 1 else ""


def _where_not_run(run: Run) -> str:
    """Return the addition for an older run in which a safe batch was not run."""
    for result in run.results:
        ran = {trial.spec.batch_size for trial in search_trials(run.trials, result.variant)}
        if result.recommendation is not None and result.recommendation.safe not in ran:
            return " (interpolated between measured batches)"
    return ""


def about_recipe(settings: Settings) -> list[str]:
    """Return sentences on the origin of the learning rates and the options that set them."""
    given = settings.target
    filled = [recipe_of(variant, given) for variant in settings.variants]
    lines = []
    by_recipe = (v for v in settings.variants if v.has_recipe and v.own.optimizer is None)
    if any(by_recipe) and given.base_learning_rate in (None, REFERENCE.base_learning_rate):
        lines.append(
            f"LR: scaled from DeepLabV2's recipe, {REFERENCE.base_learning_rate:.1e} at batch "
            f"{filled[0].base_batch}; --base-lr RATE --base-batch N scales yours."
        )
    if any(target.base_learning_rate is None for target in filled):
        lines.append(
            "LR: a factor for the rate that you use at your batch b; --base-lr RATE --base-batch b "
            "works it out."
        )
    if any(target.batch is None for target in filled):
        lines.append(f"--target-batch N plans another effective batch, by {_how(settings)}.")
    return lines


def _how(settings: Settings) -> str:
    """The way to another effective batch; a user's command must take the accumulation steps."""
    command = settings.script
    lacks = command is not None and not command.accumulates
    return f"accumulation, with {ACCUMULATION} in the command" if lacks else "accumulation"
