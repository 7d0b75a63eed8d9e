"""The course of a run: the trials that it asks for, and the results that follow from them.

It depends on the settings, the device and the trials alone: asked for again in the same way, the
trials of a finished run give the same results. `replay` checks the files of runs by that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from bsprobe.analysis.caveats import caveats_of
from bsprobe.analysis.expectation import Expected
from bsprobe.analysis.growth import growth_in
from bsprobe.analysis.memory_line import line_through
from bsprobe.analysis.rates import rule_of
from bsprobe.analysis.recommendation import (
    Limits,
    limits,
    recipe_of,
    recommend,
    search_trials,
    starred,
)
from bsprobe.analysis.script_facts import facts_of
from bsprobe.analysis.search import Probe, Process, find_boundary
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.failures import TOO_LARGE, Outcome
from bsprobe.records.runs import (
    MAX_BATCH,
    Boundary,
    DeviceInfo,
    Prediction,
    Recommendation,
    Settings,
    Target,
    VariantResult,
)
from bsprobe.records.trials import Purpose, Source, Trial, TrialSpec
from bsprobe.records.variants import Variant


class Listener(Protocol):
    """Receives the events of a course."""

    def on_variant(self, variant: Variant) -> None:
        """The search of a variant begins."""

    def on_trial(self, trial: Trial) -> None:
        """A trial has ended, or a known one is reused."""

    def on_result(self, result: VariantResult) -> None:
        """A variant is finished."""


class NewTrial(Protocol):
    """Callable that runs a trial that is not known."""

    def __call__(self, spec: TrialSpec, process: Process, purpose: Purpose) -> Trial:
        """Return the record of the trial."""


class Course:
    """The course of a run.

    Args:
        settings: The settings of the run.
        device: The device that runs the trials.
        new_trial: Runs a trial that is not known.
        listener: Receives the events.
        known: Trials that are reused.
        predict: Predicts the boundary of a variant to guide the search, or None.

    Attributes:
        trials: The trials so far, in the order in which they were asked for.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        device: DeviceInfo,
        new_trial: NewTrial,
        listener: Listener,
        known: Sequence[Trial] = (),
        predict: Callable[[Variant], Prediction] | None = None,
    ) -> None:
        self._settings = settings
        self._device = device
        self._new_trial = new_trial
        self._listener = listener
        self._known = known
        self._predict = predict
        self.trials: list[Trial] = []

    def results(self) -> tuple[VariantResult, ...]:
        """Probe every variant, in order."""
        return tuple(
            _with_stars([self._probe_variant(variant) for variant in self._settings.variants])
        )

    def _probe_variant(self, variant: Variant) -> VariantResult:
        self._listener.on_variant(variant)
        prediction = None if self._predict is None else self._predict(variant)
        boundary = self._find_boundary(variant, prediction)
        result = VariantResult(
            variant=variant,
            boundary=boundary,
            prediction=prediction,
            growth=growth_in(search_trials(self.trials, variant), self._device),
        )
        largest = None if boundary.has_failed or result.critical_growth else boundary.largest
        if largest is not None:
            item = self._recommend(variant, largest)
            result = replace(
                result,
                recommendation=item,
                validation_boundary=self._validation_boundary(item),
            )
        self._listener.on_result(result)
        return result

    def _find_boundary(self, variant: Variant, prediction: Prediction | None) -> Boundary:
        def measure(batch: int, process: Process) -> Probe:
            purpose = Purpose.PROOF if process is Process.FRESH else Purpose.SEARCH
            spec = self._search_spec(variant, batch, prediction)
            return Probe.of(self._trial(spec, process, purpose))

        def out_of_time() -> bool:
            limit = self._settings.time_limit_seconds
            spent = sum(t.wall_seconds for t in self.trials if t.spec.variant == variant)
            return limit is not None and spent >= limit

        return find_boundary(
            measure,
            capacity_bytes=self._device.capacity_bytes,
            max_batch=self._settings.max_batch,
            multiple=self._settings.batch_multiple,
            out_of_time=out_of_time,
            expected=None if prediction is None else Expected.of(prediction),
        )

    def _search_spec(
        self, variant: Variant, batch: int, prediction: Prediction | None
    ) -> TrialSpec:
        """Return the search trial of a batch.

        Only one step is timed if the batch is expected to exceed the headroom, by the peaks so
        far: its throughput is not used.
        """
        spec = self._settings.trial(variant, batch)
        if variant.script is not None:
            return spec  # a script counts as run after all its steps
        peaks = dict(prediction.peaks if prediction is not None else ())
        for trial in search_trials(self.trials, variant):
            if trial.measurement is not None:
                peaks[trial.spec.batch_size] = trial.measurement.peak_bytes
        line = line_through(list(peaks.items()))
        needed = peaks.get(batch, 0 if line is None else line.at(batch))
        is_timed = needed <= self._budget_bytes or self._device.source is Source.PREDICTED
        return spec if is_timed else replace(spec, measured_steps=1)

    @property
    def _budget_bytes(self) -> float:
        return self._settings.target.budget_bytes(self._device.capacity_bytes)

    def _recommend(self, variant: Variant, largest: int) -> Recommendation:
        """Recommend a plan that has run in a fresh process."""
        ran = search_trials(self.trials, variant)
        target = recipe_by(self.trials, variant, self._settings)
        groups = dict(ran[0].measurement.model.groups) if ran[0].measurement else {}
        while True:
            found = self._tried_limits(variant, largest)
            item, trial = self._proven_plan(variant, found, groups)
            # The safe batch may have peaked higher in the plan's fresh process than before.
            if self._limits(variant, largest).safe >= found.safe:
                break
        item = replace(item, trial=trial, synthetic_trial=self._synthetic_counterpart(trial))
        sentences = caveats_of(
            item,
            found=found,
            trials=search_trials(self.trials, variant),
            target=target,
            device=self._device,
        )
        return replace(item, caveats=sentences)

    def _tried_limits(self, variant: Variant, largest: int) -> Limits:
        """Return the limits, once the safe batch has run with all timed steps."""
        while True:
            found = self._limits(variant, largest)
            spec = self._settings.trial(variant, found.safe)
            self._trial(spec, Process.ANY, Purpose.SAFE)
            now = self._limits(variant, largest)
            if now.safe == found.safe:
                return now

    def _limits(self, variant: Variant, largest: int) -> Limits:
        """Return the largest, safe and best batch by all trials so far."""
        trials = search_trials(self.trials, variant)
        ran = {trial.spec.batch_size for trial in trials}
        did_not_run = {
            trial.spec.batch_size: trial.outcome
            for trial in self.trials
            if trial.spec.variant == variant
            and trial.spec.accumulation_steps == 1
            and trial.spec.batch_size > min(ran)
            and trial.spec.batch_size not in ran
        }
        # No batch at or above one that was too large is safe, even below a proven largest batch.
        too_large = [batch for batch, outcome in did_not_run.items() if outcome in TOO_LARGE]
        most = min([largest + 1, *too_large]) - 1
        multiple = self._settings.batch_multiple
        candidates: Sequence[int] = range(most - most % multiple, 0, -multiple)
        if len(did_not_run) > len(too_large):
            # A batch failed for another reason, and so may any batch that has not run.
            candidates = sorted((batch for batch in ran if batch <= most), reverse=True)
        return limits(
            trials, candidates=candidates, largest=largest, budget_bytes=self._budget_bytes
        )

    def _proven_plan(
        self, variant: Variant, found: Limits, groups: Mapping[str, float]
    ) -> tuple[Recommendation, Trial]:
        """Return the plan that ran, and its trial.

        Accumulated gradients live through the forward pass, so a batch that is safe without
        accumulation can run out of memory or exceed the headroom with it. Then the next smaller
        micro-batch is tried, and in the end a plan without accumulation.
        """
        target = recipe_by(self.trials, variant, self._settings)
        beyond_headroom: tuple[Recommendation, Trial] | None = None
        most: int | None = None
        while True:
            item = recommend(
                variant,
                found,
                target,
                groups=groups,
                most_accumulated=most,
                processes=processes_by(self.trials, variant, self._settings),
                ddp=self._settings.ddp,
                multiple=self._settings.batch_multiple,
            )
            micro, steps = item.plan.micro_batch, item.plan.accumulation_steps
            spec = self._settings.trial(variant, micro, accumulation_steps=steps)
            trial = self._trial(spec, Process.FRESH, Purpose.RECOMMENDED)
            if trial.measurement is not None:
                fits = trial.measurement.peak_bytes <= self._budget_bytes
                if fits or micro == 1 or not found.keeps_headroom:
                    return item, trial
                beyond_headroom = beyond_headroom or (item, trial)
            elif trial.outcome not in (Outcome.OUT_OF_MEMORY, Outcome.BATCH_TOO_SMALL):
                return item, trial
            too_small = trial.outcome is Outcome.BATCH_TOO_SMALL
            if not item.reaches_target or (too_small and beyond_headroom is not None):
                return beyond_headroom or (item, trial)
            most = 0 if too_small else micro - 1

    def _validation_boundary(self, item: Recommendation) -> Boundary | None:
        """Find the largest validation batch after the steps of the recommended plan."""
        trial = item.trial
        if trial is None or not trial.ran or not self._settings.seeks_validation_batch:
            return None
        beside, asked = trial.spec, trial.spec.validation
        assert asked is not None  # noqa: S101 - the settings require it

        def measure(batch: int, process: Process) -> Probe:
            spec = replace(beside, validation=replace(asked, batch_size=batch))
            return Probe.of_validation(self._trial(spec, process, Purpose.VALIDATION))

        return find_boundary(
            measure,
            capacity_bytes=self._device.capacity_bytes,
            max_batch=MAX_BATCH,  # the user's limit is of the training batch
        )

    def _synthetic_counterpart(self, trial: Trial) -> Trial | None:
        """Repeat a trial on synthetic batches, to compare its memory with that of real images."""
        if trial.spec.data is None or not trial.ran:
            return None
        spec = replace(trial.spec, data=None)
        return self._trial(spec, Process.FRESH, Purpose.COMPARISON)

    def _trial(self, spec: TrialSpec, process: Process, purpose: Purpose) -> Trial:
        """Run a trial, or reuse one that has already run."""
        for trial in (*self.trials, *self._known):
            if serves(trial.spec, spec) and (trial.fresh_process or process is Process.ANY):
                if trial not in self.trials:
                    self.trials.append(trial)
                    self._listener.on_trial(trial)
                return trial
        trial = self._new_trial(spec, process, purpose)
        self.trials.append(trial)
        self._listener.on_trial(trial)
        return trial


def recipe_by(trials: Sequence[Trial], variant: Variant, settings: Settings) -> Target:
    """Return the target of a variant, with the rule for the optimizer that a script shows.

    Args:
        trials: The trials so far.
        variant: The variant.
        settings: The settings of the run.
    """
    target = recipe_of(variant, settings.target)
    facts = facts_of(search_trials(trials, variant))
    if facts is None or facts.optimizer is None or target.lr_rule is not None:
        return target
    return replace(target, lr_rule=rule_of(facts.optimizer))


def processes_by(trials: Sequence[Trial], variant: Variant, settings: Settings) -> int:
    """Return the processes that train together: those of the run, or that a script started.

    Args:
        trials: The trials so far.
        variant: The variant.
        settings: The settings of the run.
    """
    facts = facts_of(search_trials(trials, variant))
    return settings.processes if facts is None else facts.ranks


def counts(trial: Trial, kind: DeviceKind) -> bool:
    """Return whether a resumed run reuses a trial.

    It repeats failures that are no verdict on the batch, such as a fixed bug or a lost GPU, and
    verdicts without proof.

    Args:
        trial: A trial of the interrupted run.
        kind: The kind of device that it ran on.
    """
    failure = trial.failure
    return failure is None or (
        trial.outcome is not Outcome.FAILED and failure.proves(trial.outcome, kind)
    )


def serves(made: TrialSpec, asked: TrialSpec) -> bool:
    """Return whether a trial is the requested one, possibly with more timed steps."""
    return (
        made.measured_steps >= asked.measured_steps
        and replace(made, measured_steps=asked.measured_steps) == asked
    )


def _with_stars(results: Sequence[VariantResult]) -> list[VariantResult]:
    found = [result.recommendation for result in results if result.recommendation is not None]
    marked = {item.variant: item for item in starred(found)}
    return [
        replace(result, recommendation=marked[result.variant])
        if result.recommendation is not None
        else result
        for result in results
    ]
