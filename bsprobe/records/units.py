"""Formatting and parsing of bytes, seconds and resolutions."""

import re
from dataclasses import dataclass

from bsprobe.records.bounds import ASKED
from bsprobe.records.errors import UsageError

KIB = 2**10
MIB = 2**20
GIB = 2**30

_BYTES_PER_UNIT = {
    "B": 1,
    "KIB": KIB,
    "MIB": MIB,
    "GIB": GIB,
    "TIB": 2**40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
_PRESETS = {"cityscapes": (1024, 2048), "cityscapes-half": (512, 1024)}
_SECONDS_PER_MINUTE = 60
_MINUTES_PER_HOUR = 60


def format_bytes(count: float) -> str:
    """Format a number of bytes for people: `22.4 GiB`, `812 MiB`, `512 B`."""
    if count < 0:
        return "-" + format_bytes(-count)
    if count >= GIB:
        return f"{count / GIB:.2f} GiB" if count < 10 * GIB else f"{count / GIB:.1f} GiB"
    if count >= MIB:
        return f"{count / MIB:.0f} MiB"
    if count >= KIB:
        return f"{count / KIB:.0f} KiB"
    return f"{count:.0f} B"


def parse_bytes(text: str) -> int:
    """Parse `11GiB`, `1500 MiB`, `24GB` (decimal) or a plain number of bytes.

    Raises:
        UsageError: The text is not a positive amount of memory, its unit is unknown, or the amount
            is out of range.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = (match[2] or "B").upper() if match else ""
    if match is None or unit not in _BYTES_PER_UNIT:
        raise UsageError(
            f"'{text}' is not an amount of memory",
            hint="write a number and a unit, for example 11GiB or 1500MiB",
        )
    count = float(match[1]) * _BYTES_PER_UNIT[unit]
    most = ASKED["memory_limit_bytes"].most
    if count > most:
        raise UsageError(
            f"'{text}' is too much memory",
            hint=f"give at most {most / GIB:.0f}GiB",
        )
    if count < 1:
        raise UsageError(f"'{text}' is less than one byte", hint="write for example 11GiB")
    return int(count)


def format_seconds(seconds: float) -> str:
    """Format a duration for people: `35 ms`, `4.2 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < _SECONDS_PER_MINUTE:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), _SECONDS_PER_MINUTE)
    if minutes < _MINUTES_PER_HOUR:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, _MINUTES_PER_HOUR)
    return f"{hours} h {minutes:02d} min"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Resolution:
    """The size of the images or volumes that a network is trained on, in pixels."""

    height: int
    width: int
    slices: int | None = None
    """The slices of a volume; None for an image."""

    def __str__(self) -> str:
        return "x".join(map(str, self.sides))

    @property
    def sides(self) -> tuple[int, ...]:
        """(height, width), or (slices, height, width) for a volume."""
        flat = (self.height, self.width)
        return flat if self.slices is None else (self.slices, *flat)

    def describe(self) -> str:
        """Name the sides, because some people write the width first."""
        volume = "" if self.slices is None else f"{self.slices} slices x "
        return f"{volume}{self.height} high x {self.width} wide"

    @property
    def is_portrait(self) -> bool:
        """True if the image is higher than wide, which is unusual for street scenes."""
        return self.height > self.width


def format_rate(per_second: float) -> str:
    """Format a rate with three significant digits: `9.52`, `123`, `1,230`."""
    if per_second < 999.5:  # noqa: PLR2004 - larger numbers would get an exponent
        return f"{per_second:.3g}"
    return f"{float(f'{per_second:.3g}'):,.0f}"


def parse_resolution(text: str) -> Resolution:
    """Parse `512x1024` (HEIGHTxWIDTH) or the name of a preset.

    Raises:
        UsageError: The text has another form, or a side is out of range.
    """
    if text in _PRESETS:
        height, width = _PRESETS[text]
        return Resolution(height=height, width=width)
    match = re.fullmatch(r"\s*(\d{1,9})\s*[xX×]\s*(\d{1,9})\s*", text)  # noqa: RUF001 - people paste the sign
    if match is None:
        raise UsageError(
            f"'{text}' is not a resolution",
            hint=f"write HEIGHTxWIDTH, for example 512x1024, or one of {', '.join(_PRESETS)}",
        )
    resolution = Resolution(height=int(match[1]), width=int(match[2]))
    shorter, longer = sorted((resolution.height, resolution.width))
    smallest, largest = int(ASKED["height"].least), int(ASKED["height"].most)
    if shorter < smallest:
        raise UsageError(
            f"resolution {resolution} is too small for the networks: a side is {shorter} pixels",
            hint=f"give at least {smallest}x{smallest}",
        )
    if longer > largest:
        raise UsageError(
            f"resolution {resolution} is too large: a side is {longer} pixels",
            hint=f"give at most {largest} pixels a side; Cityscapes is 1024x2048",
        )
    return resolution
