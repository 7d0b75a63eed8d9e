"""The Cityscapes label table, and the map from label ids to the 19 trained classes.

Source: `cityscapesscripts/helpers/labels.py` of the official package; a test compares the two.
It imports numpy only, so that drawing and inspecting work without torch.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IGNORED_TRAIN_ID = 255
"""The train id of pixels that are neither trained on nor scored."""
CLASS_COUNT = 19
LARGEST_LABEL_ID = 33

Colour = tuple[int, int, int]
"""Red, green and blue, each 0 to 255."""

_IGNORED_COLOUR: Colour = (0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One line of the official table."""

    name: str
    label_id: int
    """The value of a pixel in a `*_labelIds.png`."""
    train_id: int
    """0 to 18, or 255 for an ignored label."""
    colour: Colour


def _label(name: str, label_id: int, train_id: int, colour: Colour) -> Label:
    return Label(name=name, label_id=label_id, train_id=train_id, colour=colour)


# Without license plate, -1 in the official table: no label image can hold a -1.
LABELS = (
    _label("unlabeled", 0, 255, (0, 0, 0)),
    _label("ego vehicle", 1, 255, (0, 0, 0)),
    _label("rectification border", 2, 255, (0, 0, 0)),
    _label("out of roi", 3, 255, (0, 0, 0)),
    _label("static", 4, 255, (0, 0, 0)),
    _label("dynamic", 5, 255, (111, 74, 0)),
    _label("ground", 6, 255, (81, 0, 81)),
    _label("road", 7, 0, (128, 64, 128)),
    _label("sidewalk", 8, 1, (244, 35, 232)),
    _label("parking", 9, 255, (250, 170, 160)),
    _label("rail track", 10, 255, (230, 150, 140)),
    _label("building", 11, 2, (70, 70, 70)),
    _label("wall", 12, 3, (102, 102, 156)),
    _label("fence", 13, 4, (190, 153, 153)),
    _label("guard rail", 14, 255, (180, 165, 180)),
    _label("bridge", 15, 255, (150, 100, 100)),
    _label("tunnel", 16, 255, (150, 120, 90)),
    _label("pole", 17, 5, (153, 153, 153)),
    _label("polegroup", 18, 255, (153, 153, 153)),
    _label("traffic light", 19, 6, (250, 170, 30)),
    _label("traffic sign", 20, 7, (220, 220, 0)),
    _label("vegetation", 21, 8, (107, 142, 35)),
    _label("terrain", 22, 9, (152, 251, 152)),
    _label("sky", 23, 10, (70, 130, 180)),
    _label("person", 24, 11, (220, 20, 60)),
    _label("rider", 25, 12, (255, 0, 0)),
    _label("car", 26, 13, (0, 0, 142)),
    _label("truck", 27, 14, (0, 0, 70)),
    _label("bus", 28, 15, (0, 60, 100)),
    _label("caravan", 29, 255, (0, 0, 90)),
    _label("trailer", 30, 255, (0, 0, 110)),
    _label("train", 31, 16, (0, 80, 100)),
    _label("motorcycle", 32, 17, (0, 0, 230)),
    _label("bicycle", 33, 18, (119, 11, 32)),
)

_BY_ID = {label.label_id: label for label in LABELS}
CLASSES = tuple(
    sorted(
        (label for label in LABELS if label.train_id < CLASS_COUNT), key=lambda one: one.train_id
    )
)
"""The 19 trained labels, by train id."""


def _build_table() -> bytes:
    """The train ids of the 256 values of a pixel."""
    return bytes(
        _BY_ID[value].train_id if value in _BY_ID else IGNORED_TRAIN_ID for value in range(256)
    )


_TRAIN_IDS = _build_table()


def name_of(label_id: int) -> str:
    """The name of a label id, or `(no label)` for a value outside the table."""
    return _BY_ID[label_id].name if label_id in _BY_ID else "(no label)"


def to_train_ids(label: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Map label ids to train ids.

    Args:
        label: Label ids of any integer type and any shape. Values outside 0 to 33, negative ones
            included, become 255.

    Returns:
        A new uint8 array of the same shape, 0 to 18 or 255.

    Raises:
        TypeError: The array holds no integers. This is a mistake of the caller, not of the data.
    """
    if not np.issubdtype(label.dtype, np.integer):
        raise TypeError(f"label ids are integers, not {label.dtype}")
    if label.dtype != np.uint8:
        inside = (label >= 0) & (label <= LARGEST_LABEL_ID)
        label = np.where(inside, label, IGNORED_TRAIN_ID).astype(np.uint8)
    # bytes.translate is twice as fast as numpy's indexing, which widens each index to 64 bits.
    # The bytearray makes the result writable, as torch requires.
    translated = bytearray(np.ascontiguousarray(label)).translate(_TRAIN_IDS)
    return np.frombuffer(translated, dtype=np.uint8).reshape(label.shape)


def colours_by_label_id() -> NDArray[np.uint8]:
    """The official colours, indexed by label id: 256x3, black for values without a label."""
    table = np.zeros((256, 3), dtype=np.uint8)
    for label in LABELS:
        table[label.label_id] = label.colour
    return table


def colours_by_train_id() -> NDArray[np.uint8]:
    """The official colours, indexed by train id: 256x3, black for ignored pixels."""
    table = np.full((256, 3), _IGNORED_COLOUR, dtype=np.uint8)
    for label in CLASSES:
        table[label.train_id] = label.colour
    return table
