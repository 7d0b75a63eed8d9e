"""Tracing of the training step: the code that devices run, on tensors without data."""

import gc
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from bsprobe.analysis.growth import MOST_STEPS, is_growing
from bsprobe.records.assumptions import Assumption
from bsprobe.records.errors import BsprobeError
from bsprobe.records.explanations import NETWORK
from bsprobe.records.trials import Ddp, ModelFacts, Validation
from bsprobe.records.variants import MemoryFormat, Variant
from bsprobe.simulate.cuda import cuda_dispatch
from bsprobe.simulate.timeline import (
    Kind,
    MismatchError,
    Phase,
    Recording,
    Section,
    Timeline,
    at_one_batch,
    largest_bytes,
    matched,
)
from bsprobe.simulate.trace.compiled import as_written, not_compiled
from bsprobe.simulate.trace.data_dependence import (
    Decisions,
    EndlessConditionError,
    TooManyConditionsError,
    largest_branch,
)
from bsprobe.simulate.trace.ddp import SimulatedReplica, synchronise_norms
from bsprobe.simulate.trace.fake_model import build_without_values, make_fake, rearrange
from bsprobe.simulate.trace.feeder import Feeder
from bsprobe.simulate.trace.recorder import Recorder
from bsprobe.simulate.trace.start_over import Renewed, starting_over
from bsprobe.simulate.versions import INSTALLED, Change, Version, has
from bsprobe.training.batches import image_shape, label_shape, laid_out, placed, validation_images
from bsprobe.training.drawn_batches import drawn_batch
from bsprobe.training.own_batches import OwnBatch
from bsprobe.training.step import Batch, Task, evaluation_pass, facts_of, task_for, training_step

_PAIRS = ((1, 2), (2, 3))
"""Batch sizes whose recordings make a timeline. The second pair is for networks that differ or fail
with one image: BatchNorm on a 1x1 map, ambiguous strides."""
_COLLECTED_FROM = 4
"""The first step after which reference cycles are collected, so that they do not count as growth.
Few networks have any."""
_MOST_MICRO_BATCHES = 3
_evaluation_pass = inspect.unwrap(evaluation_pass)
"""The evaluation pass without inference mode, in which autocast does not see the parts of composite
operators. It allocates the same under `no_grad`."""


class StepTracer:
    """Traces the training step of one variant at any batch size.

    Args:
        variant: The variant to train.
        validation: The validation after the steps; None for none.
        processes: The number of processes that train together; one of them is traced.
        ddp: Their treatment of parameters that get no gradient.
        version: The PyTorch version to simulate.

    Raises:
        UsageError: The variant names an unknown model or part.
    """

    def __init__(
        self,
        variant: Variant,
        validation: Validation | None = None,
        *,
        processes: int = 1,
        ddp: Ddp = Ddp.DEFAULT,
        version: Version = INSTALLED,
    ) -> None:
        self._variant = variant
        self._version = version
        self._processes = processes
        self._ddp = ddp
        self._validation = validation
        self.validation_error: Exception | None = None
        """The error of the network in the validation, if it has failed there."""
        self._assumptions: dict[Assumption, None] = {}
        with not_compiled(self._note_compiled_part):
            built = build_without_values(variant)
        self._model = as_written(built)
        if self._model is not built:
            self._note_compiled_part()
        if processes > 1:
            synchronise_norms(self._model, processes)
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._recordings: dict[int, Recording] = {}
        self._setup = self._record_setup()

    def timeline(self, batch: int, accumulation_steps: int = 1) -> Timeline:
        """Return a timeline that is valid at a batch size, and at others if it was made of two.

        Raises:
            UntraceableModelError: The network depends on data, or on unknown operators.
            Exception: The error of the network at this batch size, as on a device.
        """
        if accumulation_steps > 1:
            # All micro-batches after the third repeat it.
            return at_one_batch(self.record(batch, min(accumulation_steps, _MOST_MICRO_BATCHES)))
        if batch > 1 and self._at_any_batch is not None:
            return self._at_any_batch
        return at_one_batch(self._recorded(batch))

    def growing_timeline(self, batch: int) -> Timeline:
        """Return a timeline with the memory that each image adds, at batch size 1 too.

        If the operators differ between batch sizes, return one for this batch size only.
        """
        growing = self._at_any_batch
        if growing is not None and batch >= growing.traced_at[0]:
            return growing
        return self.timeline(batch)

    def record(self, batch: int, accumulation_steps: int = 1) -> Recording:
        """Run steps at one batch size until one repeats, then the validation if requested.

        If conditions depend on values, the recording follows the largest branch.
        """
        found, has_branches = largest_branch(
            partial(self._record, batch, accumulation_steps), largest_bytes
        )
        if has_branches:
            self._assumptions[Assumption.LARGEST_BRANCH] = None
        return found

    def _record(self, batch: int, accumulation_steps: int, decisions: Decisions) -> Recording:
        own, least_steps = self._own_batch(batch), self._least_steps
        with self._tracing(), starting_over(self._model) as renewed:
            recorder, task = self._begun(decisions, renewed)
            with self._replicated(task, recorder):
                fed = self._batch(batch, recorder) if own is None else self._faked(own, recorder)
                del own
                feeder = Feeder(fed, accumulation_steps, self._variant.own.habits.batch)
                del fed  # the loop may free it
                recorder.end(Section.SETUP)
                with recorder.watching():
                    repeats = self._run_steps(task, feeder, recorder, least_steps)
                    if not repeats and is_growing(recorder.bytes_after_steps, noise=0):
                        self._assumptions[Assumption.STILL_GROWING] = None
                    recorder.mark_scaler(task.scaler)
                    self._facts = facts_of(task, self._variant)  # the steps have added to them
                    if self._validation is not None:
                        self._validate(task, feeder, recorder, self._validation)
            if recorder.are_largest_sizes:
                self._assumptions[Assumption.LARGEST_SIZES] = None
            return recorder.recording(batch)

    def _run_steps(self, task: Task, feeder: Feeder, recorder: Recorder, least: int) -> bool:
        """Run steps until one can be played again; return False if none can."""
        for number in range(1, MOST_STEPS + 1):
            recorder.begin(Phase.FORWARD)
            self.run_step(task, feeder.fed(recorder))
            recorder.mark_outputs((task.kept_outputs, task.kept_loss))
            if number == 1 and isinstance(task.replica, SimulatedReplica):
                # At the end of the first step, so that later steps are alike.
                task.replica.rebuild_buckets()
            if number >= _COLLECTED_FROM:
                gc.collect(0)  # the youngest generation holds all objects of the trace
            recorder.end_step()
            if recorder.repeats and number >= least:
                return True
        return False

    def _validate(self, task: Task, feeder: Feeder, recorder: Recorder, asked: Validation) -> None:
        recorder.begin(Phase.VALIDATION)
        images = self.images_for(asked, feeder)
        try:
            with torch.no_grad():
                _evaluation_pass(task, images, asked.resolution.sides)
        except (BsprobeError, TooManyConditionsError, EndlessConditionError):
            raise
        except Exception as error:  # noqa: BLE001 - raised again when the section is to be played
            self.validation_error = error.with_traceback(None)
        del images
        recorder.end(Section.VALIDATION)

    def images_for(self, asked: Validation, _feeder: Feeder) -> torch.Tensor:
        """Make the images of the validation; subclasses override this for other images."""
        return validation_images(self._variant, asked, torch.device("cpu"))

    def outputs(self, batch: int) -> Any:
        """Return the outputs of the network for a batch of images, without a training step."""
        with self._tracing():
            recorder = Recorder(self._model, self._mode, after=self._setup)
            images = self._batch(batch, recorder).images
            with recorder.watching(), torch.no_grad():
                return self._model(images)

    def run_step(self, task: Task, micro_batches: Sequence[Batch | OwnBatch]) -> None:
        """Run one step; subclasses override this for other training loops."""
        training_step(task, micro_batches)

    @cached_property
    def _least_steps(self) -> int:
        """The least number of steps to trace, so that they include the optimizer's largest step.

        A user-supplied optimizer may do more at some steps, such as Lookahead. Updates without
        the passes are fast.
        """
        if self._variant.own.optimizer is None:
            return 2
        least, _ = largest_branch(self._updates_until_largest, int)
        return max(2, least)

    def _updates_until_largest(self, decisions: Decisions) -> int:
        with self._tracing(), starting_over(self._model) as renewed:
            recorder, task = self._begun(decisions, renewed)
            parameters = [p for group in task.optimizer.param_groups for p in group["params"]]
            with recorder.watching():
                for _ in range(MOST_STEPS):
                    recorder.begin(Phase.OPTIMIZER)
                    for parameter in parameters:
                        parameter.grad = torch.empty_like(parameter)
                    task.optimizer.step()
                    task.optimizer.zero_grad(set_to_none=True)
                    recorder.end_step()
            return recorder.largest_step

    def _begun(self, decisions: Decisions, renewed: Renewed) -> tuple[Recorder, Task]:
        """Return a recorder that continues after the set-up, and the task that it records."""
        recorder = Recorder(
            self._model,
            self._mode,
            after=self._setup,
            renewed=renewed,
            decisions=decisions,
            version=self._version,
        )
        with recorder.watching():
            task = self._task()
        recorder.watch(task.optimizer)
        return recorder, task

    @property
    def facts(self) -> ModelFacts:
        """Facts of the network that the recommendation needs; complete once a step is traced."""
        return replace(self._facts, assumptions=tuple(self._assumptions))

    @cached_property
    def _facts(self) -> ModelFacts:
        with self._tracing(), Recorder(self._model, self._mode).watching():
            return facts_of(self._task(), self._variant)

    def _task(self) -> Task:
        task = task_for(self._model, self._variant, torch.device("cpu"))
        self._choose_loop(task.optimizer)
        return task

    def _choose_loop(self, optimizer: torch.optim.Optimizer) -> None:
        """Make an optimizer update all parameters at once if that is the default on CUDA."""
        for group in optimizer.param_groups:
            # `_default_to_fused_or_foreach` and Adam's exception from it in torch/optim.
            is_rate_unread = torch.is_tensor(group.get("lr")) and not group.get("capturable")
            if group.get("foreach", False) is None and not (group.get("fused") or is_rate_unread):
                # PyTorch turns it off for fake tensors.
                group["foreach"] = has(self._version, Change.OPTIMIZERS_USE_FOREACH)

    @contextmanager
    def _replicated(self, task: Task, recorder: Recorder) -> Iterator[None]:
        """Wrap the network in a simulated replica if several processes train it."""
        if self._processes == 1:
            yield
            return
        with recorder.watching():
            adopt = partial(recorder.adopt, kind=Kind.BUCKET)
            replica = SimulatedReplica(self._model, adopt, ddp=self._ddp)
        task.replica, task.ddp = replica, self._ddp
        try:
            yield
        finally:
            replica.release()

    def _batch(self, size: int, recorder: Recorder) -> Batch:
        """Make the tensors that `synthetic_batch` leaves on the device, in the same order."""
        labels = torch.zeros(label_shape(self._variant, size), dtype=torch.int64)
        images = torch.zeros(image_shape(self._variant, size))
        for tensor in (images, labels):
            recorder.adopt(tensor, Kind.BATCH)
        with recorder.watching():
            arranged = laid_out(images, self._variant.memory_format)
            recorder.adopt(arranged, Kind.BATCH)
            del images, tensor
        return Batch(images=arranged, labels=labels)

    def _own_batch(self, size: int) -> OwnBatch | None:
        """Make a user-supplied batch of real tensors: its callable does not know fake ones."""
        own = self._variant.own
        return None if own.batches is None else drawn_batch(own, size, seed=0)

    def _faked(self, own: OwnBatch, recorder: Recorder) -> OwnBatch:
        """Make the tensors of a user-supplied batch that `placed` leaves on the device."""

        def faked(tensor: torch.Tensor) -> torch.Tensor:
            fake = self._mode.from_tensor(tensor.detach())
            recorder.adopt(fake, Kind.BATCH)
            return fake

        there = own.mapped(faked)
        with recorder.watching():
            arranged = placed(there, self._variant, torch.device("cpu"))
            arranged.mapped(partial(_adopted, recorder))
            del there
        return arranged

    @cached_property
    def _at_any_batch(self) -> Timeline | None:
        """The timeline of the first pair of batch sizes that match; None if none do."""
        drawn = self._variant.own.drawn
        if drawn is not None and drawn.varies and drawn.seed is None:
            return None  # images of each batch size have sizes of their own
        for smaller, larger in _PAIRS:
            # BatchNorm raises ValueError if one image leaves it one value per channel.
            with suppress(MismatchError, ValueError):
                return matched(self._recorded(smaller), self._recorded(larger))
        return None

    def _recorded(self, batch: int) -> Recording:
        if batch not in self._recordings:
            self._recordings[batch] = self.record(batch)
        return self._recordings[batch]

    def _record_setup(self) -> Recorder:
        """Record the move of the network to the device, which is the same at every batch size."""
        with self._tracing():
            recorder = Recorder(self._model, self._mode)

            def adopt(tensor: torch.Tensor, real: torch.Tensor, module: str) -> None:
                if isinstance(tensor, nn.Parameter):
                    recorder.adopt(tensor, Kind.PARAMETER, module or NETWORK)
                else:
                    recorder.adopt(tensor, Kind.BUFFER, module or NETWORK, real)

            make_fake(self._model, self._mode, adopt)
            if self._variant.memory_format is MemoryFormat.NHWC:
                with recorder.watching():
                    rearrange(self._model)
            return recorder

    def _note_compiled_part(self) -> None:
        self._assumptions[Assumption.NOT_COMPILED] = None

    @contextmanager
    def _tracing(self) -> Iterator[None]:
        """Trace with CUDA's rules, without compilers and without garbage collection.

        Garbage collection would make the time of frees arbitrary.
        """
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            with not_compiled(self._note_compiled_part), self._mode, cuda_dispatch(self._version):
                yield
        finally:
            if was_enabled:
                gc.enable()


def _adopted(recorder: Recorder, tensor: torch.Tensor) -> torch.Tensor:
    recorder.adopt(tensor, Kind.BATCH)
    return tensor
