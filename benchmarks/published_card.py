"""What an RTX 3090 left to PyTorch's allocator in the days of timm's benchmark."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bsprobe.records.units import GIB, MIB

DATA: Final = Path(__file__).resolve().parent / "data" / "published"
CARD_BYTES: Final = 24268 * MIB
"""What PyTorch said of the card then: 23.70 GiB (huggingface/transformers, docs of DeepSpeed).
Newer drivers leave less: gpus.csv has the least that was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfMemoryText:
    """What PyTorch said where memory was out, on a card that is named."""

    source: str
    work: str
    convolutions: str
    """Whether cuDNN is loaded: yes, no or unknown."""
    total_gib: float
    free_gib: float
    reserved_gib: float

    @property
    def outside_gib(self) -> float:
        """GiB that the allocator did not hold: context, libraries, other programs."""
        return self.total_gib - self.free_gib - self.reserved_gib


def out_of_memory_texts() -> list[OutOfMemoryText]:
    """The texts in data/published, smallest rest first."""
    with (DATA / "rtx3090-out-of-memory.csv").open(encoding="utf-8", newline="") as file:
        texts = [
            OutOfMemoryText(
                source=row["source"],
                work=row["work"],
                convolutions=row["convolutions"],
                total_gib=float(row["total_gib"]),
                free_gib=float(row["free_gib"]),
                reserved_gib=float(row["reserved_gib"]),
            )
            for row in csv.DictReader(file)
        ]
    return sorted(texts, key=lambda text: text.outside_gib)


def outside_bytes() -> int:
    """Context and libraries of the timm rows: the least that a text of convolutions leaves over.

    All of them load cuDNN, as timm's networks do; what is more belongs to other programs.
    """
    return min(
        round(text.outside_gib * GIB)
        for text in out_of_memory_texts()
        if text.convolutions == "yes"
    )
