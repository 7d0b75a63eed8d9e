"""Tests of the conversion of records to JSON and back."""

import dataclasses
import json
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bsprobe.records.batch_forms import BatchForm
from bsprobe.records.failures import RAN, Outcome
from bsprobe.records.runs import Run
from bsprobe.records.trials import Failure, Measurement, Trial
from bsprobe.storage.codec import MalformedError, from_json, to_json
from tests.support.builders import broke, populated_run, ran

Place = tuple[str | int, ...]


_LOST = frozenset(Outcome) - RAN


def _ending(
    outcomes: frozenset[Outcome], kind: type, present: str, absent: str
) -> dict[str, st.SearchStrategy[Any]]:
    """Return strategies for the fields of a trial that must agree with its outcome."""
    return {
        "outcome": st.sampled_from(sorted(outcomes)),
        present: strategy_for(kind),
        absent: st.none(),
    }


def strategy_for(kind: Any) -> st.SearchStrategy[Any]:  # noqa: PLR0911 - one return a kind
    """Return a strategy for all values of a type that records use."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return st.one_of(*(strategy_for(argument) for argument in arguments))
    if typing.get_origin(kind) is tuple and arguments[-1] is Ellipsis:
        return st.lists(strategy_for(arguments[0]), max_size=2).map(tuple)
    if typing.get_origin(kind) is tuple:
        return st.tuples(*(strategy_for(argument) for argument in arguments))
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        made = {name: strategy_for(hint) for name, hint in hints.items()}
        if kind is Trial:
            return st.one_of(
                st.builds(Trial, **made | _ending(RAN, Measurement, "measurement", "failure")),
                st.builds(Trial, **made | _ending(_LOST, Failure, "failure", "measurement")),
            )
        if kind is BatchForm:
            names = st.lists(st.text(max_size=5), min_size=1, max_size=2, unique=True)
            numbers = st.integers(min_value=0).map(str)
            made |= {"fields": names.map(tuple), "sized": st.none() | numbers}
        return st.builds(typing.cast("Any", kind), **made)
    if issubclass(kind, Enum):
        return st.sampled_from(list(kind))
    return {
        float: st.floats(allow_nan=False, allow_infinity=False),
        int: st.integers(),
        str: st.text(max_size=5),
        bool: st.booleans(),
        types.NoneType: st.none(),
    }[kind]


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(strategy_for(Run))
def test_any_run_survives_json(run: Run) -> None:
    assert from_json(Run, json.loads(json.dumps(to_json(run), allow_nan=False))) == run


@pytest.mark.parametrize("outcome", Outcome)
def test_a_trial_whose_figures_contradict_its_outcome_is_refused(outcome: Outcome) -> None:
    right, wrong = (ran(4), broke(4)) if outcome in RAN else (broke(4), ran(4))
    body = to_json(right) | {"outcome": outcome.value}
    assert from_json(Trial, body).outcome is outcome
    with pytest.raises(MalformedError, match=f"outcome '{outcome.value}'"):
        from_json(Trial, to_json(wrong) | {"outcome": outcome.value})


def places(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Yield every value in a JSON value with its place."""
    yield place, value
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*place, key))


def spell(place: Place) -> str:
    return "$" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)


def replaced(body: Any, place: Place, value: Any) -> Any:
    """Copy a JSON value with another value in one place."""
    if not place:
        return value
    key, *rest = place
    copy = body.copy()
    copy[key] = replaced(body[key], tuple(rest), value)
    return copy


def complaint(body: Any) -> str:
    with pytest.raises(MalformedError) as refused:
        from_json(Run, body)
    return str(refused.value)


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Any:
    # Three trials and one result keep the tests fast; the first and the last two differ most.
    whole = to_json(populated_run(tmp_path_factory.mktemp("run")))
    whole["trials"] = [whole["trials"][0], *whole["trials"][-2:]]
    whole["results"] = whole["results"][:1]
    return whole


WRONG: dict[type, tuple[Any, ...]] = {
    dict: ([], "zzz", 1.5, True),
    bool: ({"a": 1}, 1, 1.0, "true"),
    int: ({"a": 1}, True, "1", [1]),
    float: ({"a": 1}, True, "0.5"),
    str: ({"a": 1}, 1, 0.5, True),
}
"""By type: values of other types that must be refused."""


def test_a_value_of_another_type_is_refused_with_its_place(body: Any) -> None:
    for place, value in places(body):
        for other in WRONG.get(type(value), ({"a": 1},)):
            assert complaint(replaced(body, place, other)).startswith(f"{spell(place)}: "), place


def test_an_unknown_field_is_refused_in_every_place(body: Any) -> None:
    for place, value in places(body):
        if isinstance(value, dict):
            damaged = replaced(body, place, {**value, "zzz": 1})
            words = complaint(damaged)
            assert words.startswith(f"{spell(place)}: ")
            assert "'zzz'" in words


def test_a_missing_field_is_refused_unless_it_has_a_default(body: Any) -> None:
    refused = 0
    for place, value in places(body):
        for name in value if isinstance(value, dict) else ():
            rest = {key: item for key, item in value.items() if key != name}
            try:
                from_json(Run, replaced(body, place, rest))
            except MalformedError as error:
                refused += 1
                assert str(error).startswith(f"{spell(place)}: ")  # noqa: PT017
                assert f"'{name}'" in str(error)  # noqa: PT017
    assert refused > 50


def test_the_place_of_a_nested_value_is_complete(body: Any) -> None:
    damaged = replaced(body, ("trials", 1, "measurement", "model", "groups", 0, 1), "fast")
    assert complaint(damaged).startswith("$.trials[1].measurement.model.groups[0][1]: ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    number: float
    pair: tuple[str, int] = ("a", 1)
    maybe: int | None = None


def test_a_whole_number_becomes_a_float() -> None:
    read = from_json(Small, {"number": 3})
    assert read == Small(number=3.0)
    assert isinstance(read.number, float)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"number": None}, "$.number: expected float, found null"),
        ({"number": 1, "maybe": 1.0}, "$.maybe: expected int, found float"),
        ({"number": 1, "pair": ["a"]}, "$.pair: expected 2 items, found 1"),
        ({"number": 1, "pair": ["a", 1, 2]}, "$.pair: expected 2 items, found 3"),
        ({"number": 1, "pair": "a1"}, "$.pair: expected a list, found str"),
        ({"number": 1, "pair": ["a", "b"]}, "$.pair[1]: expected int, found str"),
        ([], "$: expected an object, found list"),
        (None, "$: expected an object, found null"),
        ({"number": float("nan")}, "$.number: nan is not a finite number"),
        ({"number": float("inf")}, "$.number: inf is not a finite number"),
        ({"number": 10**400}, "$.number: too large for a float"),
    ],
)
def test_each_kind_of_damage_has_its_message(value: Any, words: str) -> None:
    with pytest.raises(MalformedError) as refused:
        from_json(Small, value)
    assert str(refused.value) == words


def test_mappings_and_enums_become_plain_json() -> None:
    class Colour(Enum):
        RED = "red"

    assert to_json({1: Colour.RED, "b": (Small(number=1.0), None)}) == {
        "1": "red",
        "b": [{"number": 1.0, "pair": ["a", 1], "maybe": None}, None],
    }
