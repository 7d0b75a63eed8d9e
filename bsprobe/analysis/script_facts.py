"""Facts of a user's command, collected from its trials, and the notes that follow from them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from bsprobe.analysis.notes import Note
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.runs import DeviceInfo, Environment, Run
from bsprobe.records.scripts import OUT, MemoryLimit, ScriptFacts, View
from bsprobe.records.trials import Trial

_CLOSEST = (View.INSIDE, View.NO_STEP, View.KEPT_OUT, View.WITHOUT_PYTORCH)
"""The views, the closest first."""
_MOST_FILES = 5
"""Files of the working directory that a note names."""
_SAME_RATE = 1e-3
"""Learning rates that differ by a smaller share count as equal."""


def is_unseen(trial: Trial) -> bool:
    """Return whether a trial of a command counts as run without a step that was seen."""
    return trial.ran and trial.script is not None and trial.script.view is not View.INSIDE


def facts_of(trials: Iterable[Trial]) -> ScriptFacts | None:
    """Return the facts of the closest view, with the most ranks and all files that were written.

    None for trials of networks.
    """
    found = [trial.script for trial in trials if trial.script is not None]
    if not found:
        return None
    closest = min(found, key=lambda facts: _CLOSEST.index(facts.view))
    return replace(
        closest,
        ranks=max(facts.ranks for facts in found),
        wrote=tuple(dict.fromkeys(name for facts in found for name in facts.wrote)),
    )


def limits_of(trials: Iterable[Trial]) -> tuple[MemoryLimit, ...]:
    """Return the ways in which the memory limit was applied to the trials of a command.

    A trial that failed early may not have come to the way of the others.
    """
    of_command = [trial for trial in trials if trial.script is not None]
    counted = [trial for trial in of_command if trial.ran] or of_command
    found = (trial.script.limit for trial in counted if trial.script is not None)
    return tuple(dict.fromkeys(limit for limit in found if limit is not None))


def environment_of(run: Run) -> Environment:
    """Return the environment that trained: a user's command has its own Python and PyTorch.

    The versions are empty if they were not seen.
    """
    if run.settings.script is None:
        return run.environment
    facts = facts_of(run.trials)
    return replace(
        run.environment,
        torch=(facts and facts.torch) or "",
        python=(facts and facts.python) or "",
        torchvision=None,
        cuda=None,
        cudnn=None,
    )


def notes_on_run(run: Run) -> list[Note]:
    """Return the notes on a run of a command that hold whatever its result is."""
    if run.settings.script is None:
        return []
    found = (
        _view_note(run.trials, run.device),
        _limit_note(run.trials, run.device),
        _files_note(facts_of(run.trials)),
    )
    return [note for note in found if note is not None]


def files_of(facts: ScriptFacts) -> str:
    """Return the first files that a trial wrote into the working directory, and their number."""
    names = ", ".join(facts.wrote[:_MOST_FILES])
    more = len(facts.wrote) - _MOST_FILES
    return f"{names} and {more} more" if more > 0 else names


def notes_on_rates(trials: Sequence[Trial]) -> list[Note]:
    """Return the note on the learning rates that a command set itself.

    Args:
        trials: Its trials that ran without accumulation.
    """
    rates = {
        trial.spec.batch_size: trial.script.learning_rates
        for trial in trials
        if trial.script is not None and trial.script.learning_rates
    }
    if not rates:
        return []
    low, high = min(rates), max(rates)
    if not _are_equal(rates[low], rates[high]):
        return [
            Note(
                text="The command sets another learning rate at each batch ({}): if it scales the "
                "rate by itself, do not scale it again.",
                figure=f"{_words(rates[low])} at {low}, {_words(rates[high])} at {high}",
            )
        ]
    return [
        Note(
            text="The trials begin with learning rate {}, which a schedule may change later.",
            figure=_words(rates[high]),
        )
    ]


def _words(rates: Sequence[float]) -> str:
    return " and ".join(f"{rate:.3g}" for rate in rates)


def _are_equal(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(
        abs(a - b) <= _SAME_RATE * max(abs(a), abs(b)) for a, b in zip(one, other, strict=True)
    )


def _view_note(trials: Sequence[Trial], device: DeviceInfo) -> Note | None:
    """The note on memory that was read from outside of the processes."""
    read = "/proc" if device.kind is DeviceKind.CPU else "the GPU's driver (NVML)"
    seen = [trial.script.view for trial in trials if trial.script is not None]
    ran = [trial.script.view for trial in trials if trial.script is not None and trial.ran]
    if View.KEPT_OUT in seen:
        return Note(
            text=(
                "Python ignored PYTHONPATH (-S, -I or -E, or a cleared environment), which keeps "
                f"bsprobe out: memory was read from {read}, and no step was seen. Leave that out."
            )
        )
    if View.WITHOUT_PYTORCH in ran:
        return Note(
            text=f"No process loaded PyTorch: memory was read from {read}, and no step was seen."
        )
    return None


def _limit_note(trials: Sequence[Trial], device: DeviceInfo) -> Note | None:
    ran = [trial for trial in trials if trial.ran]
    if device.limit_bytes is None or not ran or limits_of(ran):
        return None
    return Note(text="The memory limit was not applied: bsprobe was not inside the processes.")


def _files_note(facts: ScriptFacts | None) -> Note | None:
    if facts is None or not facts.wrote:
        return None
    return Note(
        text=(
            f"The command writes into the working directory: {files_of(facts)}. These files now "
            "hold what trials wrote: remove them before you train. "
            f"{OUT} in the command is a folder of each trial."
        )
    )
