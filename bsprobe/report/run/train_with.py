"""The command to train with, from the recommendation for a user's command."""

from bsprobe.records.printable import shell_line
from bsprobe.records.runs import Recommendation, Run, Settings, TrainingPlan
from bsprobe.records.scripts import (
    ACCUMULATION,
    ACCUMULATION_VARIABLE,
    BATCH,
    BATCH_VARIABLE,
    OUT,
    Script,
)
from bsprobe.report.run import sentences

_FOLDER = "OUT"
"""The word in the place of the scratch folder."""


def command(script: Script, plan: TrainingPlan) -> str:
    """Return the command with the numbers of a plan, for a shell.

    Numbers that the command takes from the environment precede it as variables.
    """
    micro, steps = plan.micro_batch, plan.accumulation_steps
    words = script.words(micro, steps, _FOLDER)
    variables = [
        f"{name}={number}"
        for name, number, is_needed in (
            (BATCH_VARIABLE, micro, not script.names(BATCH)),
            (ACCUMULATION_VARIABLE, steps, steps > 1 and not script.names(ACCUMULATION)),
        )
        if is_needed or script.names(name)
    ]
    return " ".join([*variables, shell_line(words)])


def explanation(item: Recommendation, script: Script, settings: Settings) -> list[str]:
    """Return the sentences on the learning rate and on words that the user replaces.

    Args:
        item: The recommendation.
        script: The command.
        settings: The settings of the run.
    """
    rule = f"by the {item.plan.lr_rule} rule"
    rate = sentences.short_rate_words(item.plan, item.variant, settings.target)
    if item.plan.learning_rate is None:
        rate = f"yours{' at batch b' if rate.endswith(('b', 'b)')) else ''}, {rate}"
    lines = [f"Learning rate: {rate}, {rule}."]
    if script.names(OUT):
        lines.append(f"{_FOLDER} is a folder of your choice.")
    return lines


def terminal(run: Run) -> list[str]:
    """Return the last lines of a run of a command; empty for networks and without a result."""
    if run.settings.script is None or run.best is None:
        return []
    said = explanation(run.best, run.settings.script, run.settings)
    return [*said, "Train with it:", "", f"  {command(run.settings.script, run.best.plan)}"]
