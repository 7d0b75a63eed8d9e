"""A run from its settings to its file: the worker processes, the journal, the probing."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bsprobe.engine.probe import Listener, Predict, Probing, RunTrial
from bsprobe.records.runs import SCHEMA_VERSION, Run, Settings
from bsprobe.records.trials import Trial
from bsprobe.storage.journal import Header, Journal
from bsprobe.storage.runfile import save_run
from bsprobe.worker.environment import describe_environment
from bsprobe.worker.protocol import Ready
from bsprobe.worker.runner import TrialRunner


def start_runner(settings: Settings, environment: Mapping[str, str] | None = None) -> TrialRunner:
    """Open the device, in a process that has found all that the variants name.

    Raises:
        DeviceError: The device is not there, or something that is named.
    """
    return TrialRunner(
        settings.device,
        variants=settings.variants,
        data=settings.data,
        timeout=settings.trial_timeout_seconds,
        environment=environment,
    )


def header_of(settings: Settings, ready: Ready, command: str) -> Header:
    """What a new journal begins with."""
    return Header(
        schema_version=SCHEMA_VERSION,
        environment=describe_environment(ready, command),
        device=ready.device,
        settings=settings,
    )


def make_run(
    settings: Settings,
    run_trial: RunTrial,
    journal: Journal,
    header: Header,
    *,
    folder: Path,
    listener: Listener,
    known: Sequence[Trial] = (),
    predict: Predict | None = None,
) -> Run:
    """Make every trial that is not known yet, and write the run beside its journal.

    Args:
        settings: Which trials are made.
        run_trial: Runs one.
        journal: Open; it is closed in the end, whatever comes.
        header: Its first line.
        folder: Where `run.json` is written.
        listener: Told what happens.
        known: The trials that the journal holds.
        predict: Says where the search should look first, or None.
    """
    with journal:
        made = Probing(
            settings,
            run_trial=run_trial,
            device=header.device,
            journal=journal,
            listener=listener,
            known=known,
            predict=predict,
        ).run(header.environment)
        save_run(made, folder)  # while the journal is locked against a second run
    return made
