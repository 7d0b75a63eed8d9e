"""A form of batches from which no training can be written is refused."""

from typing import Any

import pytest

from bsprobe.records.batch_forms import BatchForm, Call, TargetsAre
from bsprobe.storage.codec import MalformedError, from_json, to_json

FORM = BatchForm(call=Call.FIELDS, targets=TargetsAre.PIXELS, fields=("image",), labels=("mask",))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"fields": []}, "names of their fields"),
        ({"call": "field", "fields": []}, "names of their fields"),
        ({"fields": ["image", "image"]}, "named twice"),
        ({"call": "positional", "sized": "image"}, "'image' is not the number of an input"),
        ({"call": "positional", "sized": "\u0663"}, "is not the number of an input"),
        ({"call": "positional", "sized": "-1"}, "'-1' is not the number of an input"),
    ],
)
def test_a_form_without_a_possible_call_is_malformed(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(MalformedError, match=what):
        from_json(BatchForm, to_json(FORM) | changes)


@pytest.mark.parametrize("changes", [{}, {"call": "positional", "fields": [], "sized": "1"}])
def test_a_possible_form_is_read(changes: dict[str, Any]) -> None:
    assert to_json(from_json(BatchForm, to_json(FORM) | changes)) == to_json(FORM) | changes
