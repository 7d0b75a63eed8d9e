"""Notes on variants: equal ones are joined into one sentence."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bsprobe.records.variants import Norm

Lines = list[tuple[tuple[str, ...], str]]
"""Pairs of the names of variants, empty if all are meant, and a sentence on them."""
_BETWEEN = " / "
"""Separates the settings in a variant's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A sentence about one variant."""

    text: str
    """With `{}` in the place of the figure, if it has one."""
    figure: str = ""
    """The part that may differ between variants."""
    unit: str = ""
    """Follows the first figure of a sentence."""
    is_general: bool = False
    """True if the text says which variants it is about, so that they are not named."""

    def __str__(self) -> str:
        return self.with_figures(f"{self.figure}{self.unit}")

    def with_figures(self, figures: str) -> str:
        """Return the sentence with these words in the place of its figure."""
        if not self.figure:
            return self.text
        sentence = self.text.replace("{}", figures, 1)
        return sentence[:1].upper() + sentence[1:]


def joined(notes: Iterable[tuple[str, Note]], everyone: Sequence[str]) -> Lines:
    """Join notes that are equal but for their figures.

    Args:
        notes: Pairs of a variant's name and a note on it.
        everyone: The names of all variants that could have such notes.

    Returns:
        Pairs of names and a sentence, in the order of the notes. The names are empty if the
        sentence is about all variants, or says itself which ones it is about. Variants with common
        settings are named by these: `amp-fp16` if all variants with it have the note.
    """
    groups: dict[tuple[str, str], list[tuple[str, Note]]] = {}
    for name, note in notes:
        groups.setdefault((note.text, note.unit), []).append((name, note))
    return [_joined(group, everyone) for group in groups.values()]


def _joined(
    group: Sequence[tuple[str, Note]], everyone: Sequence[str]
) -> tuple[tuple[str, ...], str]:
    by_figure: dict[str, list[str]] = {}
    for name, note in group:
        names = by_figure.setdefault(note.figure, [])
        if name not in names:
            names.append(name)
    first = group[0][1]
    if len(by_figure) == 1:
        (names,) = by_figure.values()
        if first.is_general or set(names) >= set(everyone):
            return (), str(first)
        return _shortened(names, everyone), str(first)
    units = (first.unit, *[""] * (len(by_figure) - 1))
    parts = [
        f"{figure}{unit} in {' and '.join(_shortened(names, everyone))}"
        for (figure, names), unit in zip(by_figure.items(), units, strict=True)
    ]
    separator = "; " if any("," in figure for figure in by_figure) else ", "
    return (), first.with_figures(separator.join(parts))


def _shortened(names: Sequence[str], everyone: Sequence[str]) -> tuple[str, ...]:
    """Names of variants, or the settings that they share and that no other variant has."""
    settings = {name: name.split(_BETWEEN) for name in everyone}
    first, *others = (settings.get(name, [name]) for name in names)
    common = [part for part in first if all(part in other for other in others)]
    having = {name for name, parts in settings.items() if set(common) <= set(parts)}
    if not others or not common or having != set(names):
        return tuple(names)
    is_norm = len(common) == 1 and common[0] in {str(norm) for norm in Norm}
    return (f"{common[0]} norm" if is_norm else _BETWEEN.join(common),)
