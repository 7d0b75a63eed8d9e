"""The warning before the first trial of a user's command."""

import textwrap

from bsprobe.analysis.repeats import likely_trials
from bsprobe.records.runs import Settings
from bsprobe.records.scripts import ACCUMULATION, OUT, TRIAL_VARIABLE, Script
from bsprobe.report.run.terminal import WIDTH


def warning(settings: Settings, script: Script) -> list[str]:
    """Return lines on how often a command will run about, and what that may overwrite.

    Args:
        settings: The settings of the run.
        script: The command.
    """
    few, many = likely_trials(max_batch=settings.max_batch, multiple=settings.batch_multiple)
    steps = settings.warmup_steps + settings.measured_steps
    text = (
        f"{script.name} will run about {few} to {many} times, each time for {steps} optimizer "
        "steps or until it ends. It may overwrite or resume from checkpoints: "
    )
    text += (
        f"{OUT} is a new folder for each run."
        if script.names(OUT)
        else f"{OUT} in the command is a new folder for each run, and {TRIAL_VARIABLE}=1 tells the "
        "script."
    )
    target = settings.target.batch
    if target is not None and not script.accumulates:
        text += (
            f" The command has no {ACCUMULATION}: an effective batch of {target} is recommended "
            "only if it fits at once."
        )
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False)
