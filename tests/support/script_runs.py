"""Runs of users' commands, made up: nothing here ran."""

from dataclasses import dataclass, replace

from bsprobe.analysis.caveats import caveats_of
from bsprobe.analysis.recommendation import limits, recommend, starred
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.failures import Certainty, Outcome
from bsprobe.records.runs import (
    SCHEMA_VERSION,
    Boundary,
    DeviceInfo,
    DeviceRequest,
    Run,
    Settings,
    StopReason,
    Target,
    VariantResult,
)
from bsprobe.records.scripts import MemoryLimit, Script, ScriptFacts, View
from bsprobe.records.trials import (
    Failure,
    Measurement,
    ModelFacts,
    Peak,
    Purpose,
    Source,
    Trial,
    TrialSpec,
)
from bsprobe.records.units import GIB, MIB
from bsprobe.records.variants import Norm, Variant
from tests.support.builders import ENVIRONMENT, STARTED_AT

COMMAND = ("python", "train.py", "--batch-size", "{batch}")
ACCUMULATING = (*COMMAND, "--accumulation", "{accumulation}", "--out", "{out}/run")
CPU = DeviceInfo(
    kind=DeviceKind.CPU,
    name="CPU, 16 threads",
    source=Source.MEASURED,
    total_bytes=64 * GIB,
    capacity_bytes=1500 * MIB,
    limit_bytes=1500 * MIB,
)
INSIDE = ScriptFacts(
    view=View.INSIDE,
    steps=5,
    limit=MemoryLimit.DATA_ABOVE_PYTORCH,
    torch="2.14.1+cpu",
    python="3.12.3",
    optimizer="AdamW",
    learning_rates=(0.001,),
)
BY_ROOT = Target(lr_rule="sqrt")
UNSEEN = ScriptFacts(view=View.WITHOUT_PYTORCH, limit=MemoryLimit.DATA)
_BASE, _PER_IMAGE, _ACCUMULATED = 100 * MIB, 50 * MIB, 20 * MIB


@dataclass(frozen=True, kw_only=True)
class Made:
    """A command whose memory is a formula: 100 MiB, 50 MiB an image, 20 MiB if accumulating."""

    command: tuple[str, ...] = COMMAND
    facts: ScriptFacts = INSIDE
    target: Target = BY_ROOT
    multiple: int = 1
    device: DeviceInfo = CPU

    @property
    def variant(self) -> Variant:
        script = Script(command=self.command)
        return Variant(
            model=script.name, resolution=None, norm=Norm.AS_BUILT, classes=None, script=script
        )

    def trial(
        self, batch: int, purpose: Purpose = Purpose.SEARCH, *, accumulation_steps: int = 1
    ) -> Trial:
        kept = _ACCUMULATED if accumulation_steps > 1 else 0
        peak = _BASE + kept + _PER_IMAGE * batch
        fits = peak <= self.device.capacity_bytes
        facts = self.facts
        if not fits:
            facts = replace(facts, steps=0, optimizer=None, learning_rates=())
        return Trial(
            spec=TrialSpec(
                variant=self.variant,
                batch_size=batch,
                accumulation_steps=accumulation_steps,
                warmup_steps=2,
            ),
            outcome=Outcome.FITS if fits else Outcome.OUT_OF_MEMORY,
            source=Source.MEASURED,
            purpose=purpose,
            fresh_process=True,
            measurement=self._measured(peak, batch * accumulation_steps) if fits else None,
            failure=None if fits else OUT_OF_MEMORY,
            started_at=STARTED_AT,
            wall_seconds=3.2,
            script=facts,
        )

    def _measured(self, peak_bytes: int, images: int) -> Measurement:
        is_seen = self.facts.view is View.INSIDE
        seconds = 0.05 + images * 0.02
        whole = Peak(allocated_bytes=peak_bytes, reserved_bytes=None)
        first = Peak(allocated_bytes=peak_bytes - 8 * MIB, reserved_bytes=None)
        return Measurement(
            model=ModelFacts(parameters=1_234_567 if is_seen else 0, groups=()),
            first_step=first if is_seen else whole,
            steady=whole,
            updates_applied=self.facts.steps,
            steps=self.facts.steps,
            step_seconds=(seconds, seconds * 1.02, seconds * 0.98) if is_seen else (),
            images_per_second=images * self.facts.ranks / seconds if is_seen else None,
        )

    def run(self) -> Run:
        """Return the run that the search of this command would make."""
        largest = (self.device.capacity_bytes - _BASE) // _PER_IMAGE
        largest -= largest % self.multiple
        ladder = [self.multiple]
        while ladder[-1] <= largest:
            ladder.append(2 * ladder[-1])
        trials = [self.trial(batch) for batch in ladder]
        proofs = (largest, largest + self.multiple)
        trials += [self.trial(batch, Purpose.PROOF) for batch in proofs]
        boundary = Boundary(
            stop=StopReason.PROVEN, largest=largest, first_failure=largest + self.multiple
        )
        return self.finished(trials, boundary)

    def finished(self, trials: list[Trial], boundary: Boundary) -> Run:
        """Return a run with these trials, and with a recommendation if the boundary has one."""
        result = VariantResult(variant=self.variant, boundary=boundary)
        if boundary.is_exact and boundary.largest:
            result, more = self._recommended(result, trials, boundary.largest)
            trials = [*trials, *more]
        return Run(
            schema_version=SCHEMA_VERSION,
            environment=replace(ENVIRONMENT, command="bsprobe run -- python train.py"),
            device=self.device,
            settings=self.settings,
            trials=tuple(trials),
            results=(result,),
        )

    @property
    def settings(self) -> Settings:
        limit = self.device.limit_bytes
        return Settings(
            variants=(self.variant,),
            device=DeviceRequest(device="cpu", memory_limit_bytes=limit),
            target=self.target,
            max_batch=4096,
            trial_timeout_seconds=900.0,
            batch_multiple=self.multiple,
            warmup_steps=2,
        )

    def _recommended(
        self, result: VariantResult, trials: list[Trial], largest: int
    ) -> tuple[VariantResult, list[Trial]]:
        budget = self.target.budget_bytes(self.device.capacity_bytes)
        safe = int((budget - _BASE) // _PER_IMAGE)
        safe -= safe % self.multiple
        trials = [*trials, self.trial(safe, Purpose.SAFE)]
        ran = [trial for trial in trials if trial.ran]
        found = limits(ran, candidates=[safe], largest=largest, budget_bytes=budget)
        accumulates = self.variant.script is not None and self.variant.script.accumulates
        item = recommend(
            self.variant,
            found,
            self.target,
            groups={},
            most_accumulated=None if accumulates or self.target.batch is None else 0,
            processes=self.facts.ranks,
        )
        plan = item.plan
        last = self.trial(
            plan.micro_batch, Purpose.RECOMMENDED, accumulation_steps=plan.accumulation_steps
        )
        (item,) = starred([replace(item, trial=last)])
        sentences = caveats_of(
            item, found=found, trials=ran, target=self.target, device=self.device
        )
        more = [trials[-1], last]
        return replace(result, recommendation=replace(item, caveats=sentences)), more


OUT_OF_MEMORY = Failure(
    message="MemoryError: DefaultCPUAllocator: can't allocate memory (the script went on)",
    certainty=Certainty.CERTAIN,
    evidence="DefaultCPUAllocator: can't allocate memory",
    phase="step 1",
)


def failed(
    made: Made, batch: int, *, outcome: Outcome = Outcome.FAILED, message: str, output: str
) -> Trial:
    """Return a trial of a command that ended without its steps, with the end of its output."""
    why = Failure(
        message=message,
        certainty=Certainty.CERTAIN,
        evidence="ValueError",
        phase="the command",
        traceback=output,
    )
    return replace(made.trial(batch), outcome=outcome, measurement=None, failure=why)
