"""Runs of user-supplied functions from Python: the workload, its options and the run."""

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from bsprobe.analysis.recommendation import check_target
from bsprobe.engine.probe import Listener
from bsprobe.engine.run import completed, header_of, make_run, start_runner
from bsprobe.records.errors import BsprobeError, UsageError
from bsprobe.records.habits import COMMONEST, parsed_habits
from bsprobe.records.matrix import matrix
from bsprobe.records.printable import shell_line, single_line
from bsprobe.records.rates import LearningRateRule
from bsprobe.records.runs import (
    MAX_BATCH,
    TRIAL_TIMEOUT_SECONDS,
    DeviceRequest,
    Prediction,
    Run,
    Settings,
    Target,
    VariantResult,
)
from bsprobe.records.trials import Trial, TrialSpec
from bsprobe.records.units import parse_bytes
from bsprobe.records.variants import AXES, Variant, parse_choices, unknown_value
from bsprobe.records.workload import BATCHES_SEEN, LOSSES, OwnParts, name_of
from bsprobe.storage.checks import check_asked
from bsprobe.storage.codec import MalformedError, from_json, to_json
from bsprobe.storage.files import file_errors
from bsprobe.storage.journal import Journal
from bsprobe.storage.runfile import save_run
from bsprobe.worker.runner import TrialRunner

_LOG = logging.getLogger("bsprobe")
_WORKER = "bsprobe.worker.child"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The training to probe: four functions or classes at the top level of a module or script."""

    model: Callable[..., Any]
    """Takes no arguments and returns an `nn.Module` on the CPU. If it accepts `norm_layer`, as
    torchvision's networks do, norms other than `batch` are passed through it."""
    optimizer: Callable[[Any], Any]
    """Takes the network and returns its `torch.optim.Optimizer`."""
    batch: Callable[[int], tuple[Any, Any]]
    """Takes the number of images and returns inputs and targets: tensors on the CPU, alone or in
    tuples, lists and dicts. A dict of inputs is passed to the network by name, a tuple by
    position."""
    loss: Callable[[Any, Any], Any] | str = "pixel-cross-entropy"
    """Takes outputs and targets and returns a scalar tensor. Or a name: `pixel-cross-entropy`, of
    logits (N, C, h, w) and int64 labels (N, H, W), or `image-cross-entropy`, of logits (N, C) and
    labels (N,)."""


class Options(TypedDict, total=False):
    """Options of `probe`, `predict` and `recommend`; lists are written `fp32,amp-fp16`."""

    memory_limit: int | str
    """Bytes, or text such as `11GiB`."""
    precision: str
    """By default `fp32`."""
    norm: str
    """By default `batch`, which leaves the network as built."""
    checkpointing: str
    checkpoint_blocks: str
    """With `checkpointing="on"`: patterns of module names; see `--checkpoint-blocks`."""
    memory_format: str
    cudnn_benchmark: str
    loop: str
    """Habits of the training loop, such as `zero-grad=start,outputs=dropped`; see `--loop`."""
    target: Target
    """The recipe from which batch and learning rate are scaled."""
    max_batch: int
    steps: int
    warmup_steps: int
    trial_timeout: float
    """Seconds for each trial."""
    time_limit: float
    """Seconds for the search of each variant."""
    seed: int
    batches_seen: int
    """Batches to draw, to use the largest if their shapes differ; see `--batches-seen`."""
    out: str | os.PathLike[str]
    """An empty or new folder for `journal.jsonl` and `run.json`; by default neither is kept."""


@contextmanager
def hints_in_tracebacks() -> Iterator[None]:
    """Append the hint of an error to its traceback."""
    try:
        yield
    except BsprobeError as error:
        note = f"hint: {error.hint}"
        if error.hint is not None and note not in getattr(error, "__notes__", []):
            error.add_note(note)
        raise


def settings_for(workload: Workload, device: DeviceRequest, options: Options) -> Settings:
    """Make the settings of a run, as the command line does.

    Args:
        workload: The training to probe.
        device: The device; its memory limit comes from the options.
        options: The options by name.

    Raises:
        UsageError: A part of the workload cannot be imported, or an option is invalid.
        TypeError: An option is unknown.
    """
    known = Options.__annotations__
    if unknown := options.keys() - known.keys():
        raise TypeError(f"unknown option {min(unknown)!r}; the options are {', '.join(known)}")
    limit = options.get("memory_limit")
    if isinstance(limit, str):
        limit = parse_bytes(limit)
    asked = Settings(
        variants=_variants(workload, options),
        device=DeviceRequest(device=device.device, gpu=device.gpu, memory_limit_bytes=limit),
        target=options.get("target", Target()),
        max_batch=options.get("max_batch", MAX_BATCH),
        trial_timeout_seconds=options.get("trial_timeout", TRIAL_TIMEOUT_SECONDS),
        time_limit_seconds=options.get("time_limit"),
        warmup_steps=options.get("warmup_steps", 1),
        measured_steps=options.get("steps", 3),
        seed=options.get("seed", 0),
    )
    try:
        settings = from_json(Settings, to_json(asked), place="settings")  # types as in files
        check_asked(settings, place="settings")
    except MalformedError as error:
        raise UsageError(str(error), hint="see bsprobe.api.Options") from error
    check_target(settings.target)
    rules = [str(rule) for rule in LearningRateRule]
    if settings.target.lr_rule not in (None, *rules):
        raise unknown_value("lr_rule", settings.target.lr_rule or "", rules)
    return settings


def start_worker(settings: Settings) -> TrialRunner:
    """Open the device in a worker with the module search path of this process.

    Raises:
        UsageError: This process is a worker itself.
        DeviceError: As `probe`.
    """
    main = sys.modules["__main__"].__spec__
    if main is not None and main.name == _WORKER:
        raise UsageError(
            "the script calls bsprobe when it is imported, and workers import it",
            hint='put the call under: if __name__ == "__main__":',
        )
    here = [folder or str(Path.cwd()) for folder in sys.path]
    inherited = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    path = os.pathsep.join(dict.fromkeys([*here, *inherited]))
    return start_runner(settings, {"PYTHONPATH": path})


def run_on(
    runner: TrialRunner, settings: Settings, options: Options, listener: Listener | None = None
) -> Run:
    """Make a run and write its files to the folder `out`, or to a temporary one.

    Args:
        runner: The runner with the open device.
        settings: The settings of the run.
        options: The options, of which only `out` is read.
        listener: Receives the events; by default they are logged.
    """
    out = options.get("out")
    settings = completed(settings, runner.ready)
    with ExitStack() as stack:
        if out is None:
            out = stack.enter_context(tempfile.TemporaryDirectory(prefix="bsprobe-"))
        folder = Path(out)
        with file_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        header = header_of(settings, runner.ready, shell_line(["python", *sys.orig_argv[1:]]))
        with Journal.create(folder, header) as log:
            made = make_run(settings, runner.run, log, header, listener=listener or _Log())
            save_run(made, folder)  # while the journal is locked against a second run
        return made


def _variants(workload: Workload, options: Options) -> tuple[Variant, ...]:
    loss = workload.loss
    if isinstance(loss, str) and loss not in LOSSES:
        raise UsageError(f"loss: '{loss}' is unknown", hint=f"choose among {', '.join(LOSSES)}")
    own = OwnParts(
        loss=loss if isinstance(loss, str) else name_of(loss, "loss"),
        optimizer=name_of(workload.optimizer, "optimizer"),
        batches=name_of(workload.batch, "batch"),
        batches_seen=options.get("batches_seen", BATCHES_SEEN),
        habits=parsed_habits(options["loop"]) if "loop" in options else COMMONEST,
        checkpoint_blocks=options.get("checkpoint_blocks"),
    )
    given: dict[str, Any] = dict(options)
    choices = {
        axis.field: parse_choices(axis, given.get(axis.field, str(axis.defaults[0])))
        for axis in AXES
    }
    return matrix(
        models=(name_of(workload.model, "model"),), resolutions=(None,), choices=choices, own=own
    )


class _Log:
    """Listener that writes to the log at debug level."""

    def on_open(self, settings: Settings) -> None:
        pass

    def on_variant(self, variant: Variant) -> None:
        _LOG.debug("probing %s, %s", single_line(variant.subject), variant.precision)

    def on_predicting(self) -> None:
        pass

    def on_prediction(self, prediction: Prediction) -> None:
        pass

    def on_trial_start(self, spec: TrialSpec) -> None:
        pass

    def on_phase(self, phase: str) -> None:
        pass

    def on_trial(self, trial: Trial) -> None:
        _LOG.debug("batch %d: %s", trial.spec.batch_size, trial.outcome)

    def on_result(self, result: VariantResult) -> None:
        boundary = result.boundary
        _LOG.debug("largest batch %s (%s)", boundary.largest, boundary.stop)
