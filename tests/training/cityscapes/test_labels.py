import subprocess
import sys

import numpy as np
import pytest
from cityscapesscripts.helpers.labels import labels as official_labels
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bsprobe.training.cityscapes.labels import (
    CLASSES,
    LABELS,
    colours_by_label_id,
    colours_by_train_id,
    name_of,
    to_train_ids,
)

OFFICIAL_TRAIN_IDS = {label.id: label.trainId for label in official_labels if label.id >= 0}


def by_loop(label: NDArray[np.integer]) -> NDArray[np.uint8]:
    out = np.full(label.shape, 255, dtype=np.uint8)
    for label_id, train_id in OFFICIAL_TRAIN_IDS.items():
        out[label == label_id] = train_id
    return out


def test_the_table_is_the_official_one_without_the_license_plate() -> None:
    ours = [(one.name, one.label_id, one.train_id, one.colour) for one in LABELS]
    official = [
        (one.name, one.id, one.trainId, one.color) for one in official_labels if one.id != -1
    ]
    assert ours == official


def test_the_classes_are_the_19_scored_labels_by_train_id() -> None:
    scored = [one for one in official_labels if not one.ignoreInEval]
    assert [one.name for one in CLASSES] == [one.name for one in scored]
    assert [one.train_id for one in CLASSES] == list(range(19))


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64, np.uint64]
)
def test_every_integer_maps_as_the_official_table_says_and_others_are_ignored(
    dtype: type[np.integer],
) -> None:
    limits = np.iinfo(dtype)
    wanted = [limits.min, *range(-300, 300), 65536 + 7, limits.max]
    label = np.array([value for value in wanted if limits.min <= value <= limits.max], dtype=dtype)
    mapped = to_train_ids(label)
    assert mapped.dtype == np.uint8
    np.testing.assert_array_equal(mapped, by_loop(label))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40))
def test_any_integers_map_as_the_loop_over_the_official_dictionary(values: list[int]) -> None:
    label = np.array(values, dtype=np.int64)
    np.testing.assert_array_equal(to_train_ids(label), by_loop(label))


def test_the_result_is_a_new_writable_array_and_the_input_a_view_that_stays() -> None:
    label = np.array([[7, 0], [8, 33]], dtype=np.uint8).T
    mapped = to_train_ids(label)
    mapped[0, 0] = 99
    np.testing.assert_array_equal(label, [[7, 8], [0, 33]])
    np.testing.assert_array_equal(mapped, [[99, 1], [255, 18]])


def test_labels_that_became_floats_are_refused() -> None:
    with pytest.raises(TypeError, match="label ids are integers, not float32"):
        to_train_ids(np.zeros((2, 2), dtype=np.float32))


def test_colours_are_official_by_id_and_by_train_id() -> None:
    by_id, by_train_id = colours_by_label_id(), colours_by_train_id()
    for one in official_labels:
        if one.id >= 0:
            assert tuple(by_id[one.id].tolist()) == one.color
        if not one.ignoreInEval:
            assert tuple(by_train_id[one.trainId].tolist()) == one.color
    np.testing.assert_array_equal(by_train_id[19:], 0)


def test_names_are_given_for_every_value() -> None:
    assert [name_of(value) for value in (7, 33, 34)] == ["road", "bicycle", "(no label)"]


def test_the_table_and_the_drawing_load_without_torch() -> None:
    code = (
        "import sys, bsprobe.training.cityscapes.inspection, bsprobe.training.cityscapes.synthetic;"
        "print(sorted({'torch', 'torchvision', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
