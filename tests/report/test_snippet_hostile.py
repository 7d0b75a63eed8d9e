"""No text of a run becomes code of its snippet."""

import ast
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from bsprobe.analysis.recommendation import plan, recipe_of
from bsprobe.records.batch_forms import BatchForm, Call, LossIs, TargetsAre
from bsprobe.records.checkpointing import Checkpointed, CheckpointWay
from bsprobe.records.runs import REFERENCE, Recommendation, Run, Target, TrainingPlan, VariantResult
from bsprobe.records.trials import Ddp, Trial
from bsprobe.records.units import Resolution
from bsprobe.records.variants import Checkpointing, OptimizerName, Variant
from bsprobe.records.workload import OwnParts
from bsprobe.report.run import markdown
from bsprobe.report.snippet import snippet
from bsprobe.storage.codec import MalformedError, from_json, to_json
from tests.support import hostile_code
from tests.support.snippet_training import execute

SHARES = [6, pytest.param(1, marks=pytest.mark.nightly)]
"""Of how many texts one is tried in each place."""
OWN = OwnParts(batches="m:batch", loss="m:loss")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A run that a snippet is written for."""

    variant: dict[str, Any] = field(default_factory=dict)
    form: BatchForm | None = None
    checkpointed: Sequence[tuple[str, CheckpointWay]] = ()
    target: Target = REFERENCE
    processes: int = 1


def _form(call: Call, targets: TargetsAre = TargetsAre.OTHER, **changes: Any) -> BatchForm:
    return BatchForm(call=call, targets=targets, **changes)


def _of_batches(form: BatchForm, **parts: str | None) -> Case:
    own = replace(OWN, **parts)  # type: ignore[arg-type] # all are texts
    return Case(variant={"model": "net.py:build", "resolution": None, "own": own}, form=form)


FIELDS: dict[str, Any] = {
    "fields": ("image", "weight_of_each_class_of_all_pixels", "spacing_between_the_slices"),
    "labels": ("mask", "boxes"),
    "sized": "image",
}
CASES = {
    "built-in": Case(),
    "classifier": Case(variant={"model": "torchvision:resnet18"}),
    "arguments": Case(
        variant={
            "model": "net.py:build",
            "own": OwnParts(model_args=(("name", "x"), ("width", "3"))),
            "optimizer": OptimizerName.ADAMW,
        },
        target=Target(),
    ),
    "volumes": Case(
        variant={"model": "a:b", "resolution": Resolution(height=4, width=4, slices=4)}
    ),
    "optimizer": Case(variant={"own": OwnParts(optimizer="m:adam")}),
    "open optimizer": Case(
        variant={"model": "a:b", "own": OwnParts(optimizer="m:adam")}, target=Target()
    ),
    "fields": _of_batches(_form(Call.FIELDS, **FIELDS)),
    "attributes": _of_batches(_form(Call.FIELDS, **FIELDS, has_attributes=True)),
    "one field": _of_batches(
        _form(Call.FIELD, fields=("image",), labels=("mask",), sized="image"), optimizer="m:adam"
    ),
    "named": _of_batches(_form(Call.NAMED, sized="image")),
    "positional": _of_batches(_form(Call.POSITIONAL, TargetsAre.PIXELS, sized="1")),
    "loss of the network": _of_batches(
        _form(Call.FIELDS, fields=("image",), loss=LossIs.ENTRY), loss=None
    ),
    "checkpointing": Case(
        variant={"checkpointing": Checkpointing.ON},
        checkpointed=[(f"part{number}", way) for number, way in enumerate(CheckpointWay)],
        processes=2,
    ),
}


def made(run: Run, item: Recommendation, case: Case) -> Run:
    """Return a run of one variant with one trial."""
    variant = replace(item.variant, **case.variant)
    planned = plan(
        variant,
        recipe_of(variant, case.target),
        micro_batch=4,
        steps=2,
        groups={"all": 1.0},
        processes=case.processes,
        ddp=Ddp.FIND_UNUSED_PARAMETERS,
    )
    item = replace(item, variant=variant, plan=planned, trial=None, starred=True)
    result = VariantResult(variant=variant, boundary=run.results[0].boundary, recommendation=item)
    settings = replace(run.settings, variants=(variant,), target=case.target)
    trials = (_trial(run.trials[0], variant, case),)
    return replace(run, settings=settings, trials=trials, results=(result,))


def _trial(trial: Trial, variant: Variant, case: Case) -> Trial:
    measured = trial.measurement
    assert measured is not None
    found = tuple(Checkpointed(modules=modules, way=way) for modules, way in case.checkpointed)
    model = replace(measured.model, batch_form=case.form, checkpointed=found)
    return replace(
        trial,
        spec=replace(trial.spec, variant=variant),
        measurement=replace(measured, model=model),
    )


def rendered(run: Run) -> str:
    item = run.results[0].recommendation
    assert item is not None
    return snippet.render(run, item)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", CASES)
def test_the_code_does_not_depend_on_the_texts_of_a_run(
    run: Run, item: Recommendation, name: str, share: int
) -> None:
    made_run = made(run, item, CASES[name])
    reached = hostile_code.require_same_code(
        rendered, made_run, made_run.settings.variants[0], share
    )
    assert {("device", "name"), (hostile_code.VARIANT, "model")} <= reached


def test_a_rule_of_the_learning_rate_that_does_not_exist_is_malformed(
    item: Recommendation,
) -> None:
    stored = to_json(item.plan)
    assert from_json(TrainingPlan, stored) == item.plan
    with pytest.raises(MalformedError, match="is not a valid LearningRateRule"):
        from_json(TrainingPlan, stored | {"lr_rule": "linear\nimport os"})


def test_no_text_ends_the_block_of_code_in_the_report(run: Run, item: Recommendation) -> None:
    changed = made(run, item, Case(variant={"model": "```\n```.py:build"}))
    text = rendered(changed)
    report = markdown.render(changed, plots=(), snippet=text)
    assert f"\n````python\n{text}````\n" in report


def test_a_path_of_windows_stands_in_the_snippet_as_it_was_typed(
    run: Run, item: Recommendation
) -> None:
    own = OwnParts(model_args=(("name", "C:\\new\\x1"), ("pattern", "\\d{{ 1 }}")))
    text = rendered(made(run, item, Case(variant={"model": "net.py:build", "own": own})))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree = ast.parse(text)
        compile(tree, "snippet.py", "exec")
    assert "build(name=C:\\new\\x1, pattern=\\d{{ 1 }}) at" in (ast.get_docstring(tree) or "")


def test_a_field_that_is_no_name_is_given_by_its_text(run: Run, item: Recommendation) -> None:
    fields = ("image", "class", "pixel size")
    form = _form(Call.FIELDS, fields=fields, labels=("class",), sized="pixel size")
    text = rendered(made(run, item, _of_batches(form)))
    names = execute(text)
    batch = {"image": 1, "class": 2, "pixel size": [3, 4]}
    assert names["outputs_of"](lambda **named: named, batch) == batch
    assert (names["targets_of"](batch), names["counted"](batch)) == (2, 2)
    text = rendered(made(run, item, _of_batches(replace(form, has_attributes=True))))
    assert execute(text)["outputs_of"](lambda **named: named, SimpleNamespace(**batch)) == batch
