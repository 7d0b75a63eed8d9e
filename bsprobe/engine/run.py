"""A run from its settings to its file: the device, the folder, the journal and the search."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from bsprobe.engine.explain import recorded_side
from bsprobe.engine.predict import card_like, predictor_for
from bsprobe.engine.probe import Listener, Predict, Probing, RunTrial
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.errors import BsprobeError, FileError, InterruptedRunError
from bsprobe.records.explanations import RECORDED_SNAPSHOT, Explanation
from bsprobe.records.printable import shell_word
from bsprobe.records.runs import SCHEMA_VERSION, DeviceInfo, Run, Settings, VariantResult
from bsprobe.records.trials import Source, Trial
from bsprobe.records.variants import Variant
from bsprobe.storage.folders import (
    REPORTS,
    new_folder,
    require_empty,
    reserved,
    run_name,
    withdrawn_if_refused,
)
from bsprobe.storage.journal import Contents, Header, Journal
from bsprobe.storage.runfile import save_run
from bsprobe.worker.environment import describe_environment
from bsprobe.worker.protocol import Explain, Ready
from bsprobe.worker.ranks.launch import command_of
from bsprobe.worker.resuming import require_same_device, require_same_versions
from bsprobe.worker.runner import TrialRunner
from bsprobe.worker.script.runner import ScriptRunner

if TYPE_CHECKING:
    from bsprobe.worker.ranks.runner import WorldRunner


def start_runner(settings: Settings, environment: Mapping[str, str] | None = None) -> TrialRunner:
    """Open the device in a worker that has loaded everything that the variants name.

    Raises:
        DeviceError: The device, or something that a variant names, does not exist.
    """
    return TrialRunner(
        settings.device,
        variants=settings.variants,
        data=settings.data,
        timeout=settings.trial_timeout_seconds,
        environment=environment,
    )


def completed(settings: Settings, ready: Ready) -> Settings:
    """Return the settings with the variants that the worker has completed from their networks."""
    return replace(settings, variants=ready.variants or settings.variants)


def header_of(settings: Settings, ready: Ready, command: str) -> Header:
    """Build the first line of a new journal.

    Args:
        settings: The completed settings.
        ready: The first answer of the worker.
        command: The command line that reproduces the run.
    """
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
    listener: Listener,
    known: Sequence[Trial] = (),
    predict: Predict | None = None,
) -> Run:
    """Run every trial that is not in the journal.

    Args:
        settings: The settings of the run.
        run_trial: Runs one trial.
        journal: The open journal.
        header: The first line of the journal.
        listener: Receives the progress.
        known: The trials in the journal.
        predict: Predicts boundaries to guide the search, or None.

    Returns:
        The finished run.
    """
    return Probing(
        settings,
        run_trial=run_trial,
        device=header.device,
        journal=journal,
        listener=listener,
        known=known,
        predict=predict,
    ).run(header.environment)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The start of a run, new or resumed."""

    settings: Settings
    command: str
    """The command line that reproduces the run."""
    folder: Path | None
    """A new or empty folder. None creates one below `REPORTS`, named after device and settings."""
    resumed: tuple[Journal, Contents] | None = None
    """The open journal of the run to resume, and its contents."""
    open_runner: "Callable[[Settings], TrialRunner | WorldRunner]" = start_runner


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A finished run, its folder, and explanations of some of its steps."""

    run: Run
    folder: Path
    explanations: Mapping[Variant, Explanation]
    """For each predicted recommendation, or for the starred one as recorded on the GPU."""
    unsaved: FileError | None = None
    """The reason if `run.json` could not be written; the journal holds all trials."""


def _open(start: Start) -> "TrialRunner | WorldRunner | ScriptRunner":
    """Open the device of a run."""
    if start.settings.script is None:
        return start.open_runner(start.settings)
    known = () if start.resumed is None else start.resumed[1].trials
    return ScriptRunner(start.settings, known=known)


def run(start: Start, *, listener: Listener, warn: Callable[[str], None]) -> Finished:
    """Open the device and make the run; a run that stops early keeps its journal.

    Args:
        start: The start of the run.
        listener: Receives the progress.
        warn: Called with a sentence if the step of the starred row cannot be recorded.

    Returns:
        The finished run.

    Raises:
        FileError: The folder cannot be used, or the journal was made on another device or with
            other versions.
        DeviceError: The device, or something that a variant names, does not exist.
        InterruptedRunError: The user interrupted the run.
    """
    with reserved(None if start.resumed else start.folder), _open(start) as runner:
        start = replace(start, settings=completed(start.settings, runner.ready))
        listener.on_open(start.settings)
        with predictor_for(start.settings, runner.ready.device) as predict:
            return _run_on(runner, start, predict, listener, warn)


def _run_on(
    runner: "TrialRunner | WorldRunner | ScriptRunner",
    start: Start,
    predict: Predict | None,
    listener: Listener,
    warn: Callable[[str], None],
) -> Finished:
    """Make the run on an open device."""
    folder, log, contents = _opened(start, runner.ready)
    # Only the steps of a single process are explained.
    alone = runner if isinstance(runner, TrialRunner) else None
    explaining = _Explaining(listener, alone)
    unsaved: FileError | None = None
    with _resumable(folder), withdrawn_if_refused(folder):
        with log:
            made = make_run(
                start.settings,
                runner.run,
                log,
                contents.header,
                listener=explaining,
                known=contents.trials,
                predict=predict,
            )
            try:
                save_run(made, folder)  # while the journal is locked against a second run
            except FileError as error:
                unsaved = error
        if alone is not None and alone.ready.device.kind is DeviceKind.CUDA:
            explaining.found |= recorded_star(made, alone, listener.on_phase, warn)
    return Finished(run=made, folder=folder, explanations=explaining.found, unsaved=unsaved)


def rehearse(start: Start) -> tuple[Settings, DeviceInfo]:
    """Open and check everything that `run` opens before its first trial, without writing.

    Returns:
        The completed settings, and the device.

    Raises:
        BsprobeError: As `run`.
    """
    if start.folder is not None and start.resumed is None:
        require_empty(start.folder)
    with (
        _open(start) as runner,
        predictor_for(start.settings, runner.ready.device),
    ):
        device = runner.ready.device
        if start.resumed is not None:
            assert start.folder is not None  # noqa: S101 - a resumed run has one
            log, contents = start.resumed
            with log:
                _require_same_conditions(contents.header, runner.ready, start.folder)
        return completed(start.settings, runner.ready), device


class _Explaining:
    """Forwards all events, and explains each predicted recommendation when it is made.

    At that moment the worker still has the traces of the variant.
    """

    def __init__(self, listener: Listener, runner: TrialRunner | None) -> None:
        self._listener = listener
        self._runner = runner
        self.found: dict[Variant, Explanation] = {}
        self.on_open = listener.on_open
        self.on_variant = listener.on_variant
        self.on_predicting = listener.on_predicting
        self.on_prediction = listener.on_prediction
        self.on_trial_start = listener.on_trial_start
        self.on_phase = listener.on_phase
        self.on_trial = listener.on_trial

    def on_result(self, result: VariantResult) -> None:
        self._listener.on_result(result)
        item, runner = result.recommendation, self._runner
        if runner is None or runner.ready.device.source is Source.MEASURED:
            return
        if item is not None and item.trial is not None and item.trial.ran:
            spec = replace(item.trial.spec, accumulation_steps=1, data=None)
            asked = Explain(spec=spec)
            self.found[result.variant] = runner.explain(asked, on_phase=lambda _: None)


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Turn Ctrl-C into an error whose hint is the command to resume."""
    try:
        yield
    except KeyboardInterrupt:
        again = command_of(f"run --resume --out {shell_word(str(folder))}", os.environ)
        raise InterruptedRunError(
            "interrupted; every finished trial is kept", hint=f"go on with: {again}"
        ) from None


def _opened(start: Start, ready: Ready) -> tuple[Path, Journal, Contents]:
    """Return the folder, the journal and its contents, of a new or a resumed run."""
    device = ready.device
    folder = start.folder or new_folder(REPORTS, run_name(device, start.settings))
    if start.resumed is not None:
        log, contents = start.resumed
        _require_same_conditions(contents.header, ready, folder)
        return folder, log, contents
    header = header_of(start.settings, ready, start.command)
    empty = Contents(header=header, trials=(), complete_bytes=0)
    return folder, Journal.create(folder, header), empty


def _require_same_conditions(header: Header, ready: Ready, folder: Path) -> None:
    """Raise FileError if a run was begun on another device or with other versions."""
    what = f"run in {folder}"
    require_same_device(header.device, ready.device, what)
    require_same_versions(header.environment, ready, what, script=header.settings.script)


def recorded_star(
    finished: Run,
    runner: TrialRunner,
    on_phase: Callable[[str], None],
    warn: Callable[[str], None],
) -> dict[Variant, Explanation]:
    """Explain the starred row by one more trial, recorded on the GPU.

    A failure is only a warning, because the run is already finished.

    Args:
        finished: A run on a GPU.
        runner: The runner of that GPU.
        on_phase: Called with the phase.
        warn: Called with the reason if the recording fails.

    Returns:
        The explanation by variant; empty without a starred row or after a failure.
    """
    best = finished.best
    if best is None or best.trial is None:
        return {}
    spec = replace(best.trial.spec, accumulation_steps=1, validation=None, data=None)
    timeout = finished.settings.trial_timeout_seconds
    on_phase("recording one step of the starred row")
    try:
        with (
            TrialRunner(card_like(finished.device), timeout=timeout) as predictor,
            TemporaryDirectory() as folder,
        ):
            side = recorded_side(
                spec,
                recorder=runner,
                predictor=predictor,
                snapshot=Path(folder) / RECORDED_SNAPSHOT,
                on_phase=lambda _: None,
            )
    except BsprobeError as error:
        warn(f"warning: no memory plot of the step: {error}")
        return {}
    if side.explanation is None:
        warn(f"warning: no memory plot of the step: {side.failure}")
        return {}
    return {best.variant: side.explanation}
