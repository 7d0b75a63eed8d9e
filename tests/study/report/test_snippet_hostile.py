"""No text of a study becomes code of its snippet."""

from functools import partial

from bsprobe.study.records import Study
from bsprobe.study.report import sentences
from bsprobe.study.report.write import study_snippet
from tests.support import hostile_code


def test_the_code_does_not_depend_on_the_texts_of_a_study(study: Study) -> None:
    _, chosen = sentences.chosen_of(study)
    assert chosen is not None
    rendered = partial(study_snippet, chosen=chosen)
    reached = hostile_code.require_same_code(rendered, study, study.settings.variant, share=6)
    assert {("device", "name"), (hostile_code.VARIANT, "model")} <= reached
