"""Modules that activation checkpointing recomputes, and how it is switched on."""

from dataclasses import dataclass
from enum import StrEnum


class CheckpointWay(StrEnum):
    """A method of making a module recompute its activations in the backward pass."""

    BLOCK = "block"
    """The module's forward runs in `torch.utils.checkpoint.checkpoint`."""
    SEGMENTS = "segments"
    """The module is an `nn.Sequential`; each segment of its layers is checkpointed."""
    TIMM = "set_grad_checkpointing"
    """The method of timm's networks."""
    TRANSFORMERS = "gradient_checkpointing_enable"
    """The method of transformers' networks."""
    TRANSFORMERS_LATER = "activation_checkpointing_enable"
    """The name of that method in transformers 5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpointed:
    """Modules of a network that are recomputed by one method."""

    modules: str
    """An fnmatch pattern of dotted names, as in `--checkpoint-blocks`; empty for the whole
    network."""
    way: CheckpointWay


def parsed_patterns(text: str) -> tuple[str, ...]:
    """Split a comma-separated list of patterns and drop duplicates."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
