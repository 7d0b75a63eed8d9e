"""The modules that activation checkpointing recomputes, and the ways of asking for it."""

from dataclasses import dataclass
from enum import StrEnum


class CheckpointWay(StrEnum):
    """The way in which a module is made to recompute its inside in the backward pass."""

    BLOCK = "block"
    """Its forward runs in `torch.utils.checkpoint.checkpoint`."""
    SEGMENTS = "segments"
    """It is an `nn.Sequential`, of which stretches of layers run in it one by one."""
    TIMM = "set_grad_checkpointing"
    """By its own method, as timm's networks have it."""
    TRANSFORMERS = "gradient_checkpointing_enable"
    """By its own method, as transformers' networks have it."""
    TRANSFORMERS_LATER = "activation_checkpointing_enable"
    """By the name that transformers 5 gave this method."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpointed:
    """Modules of a network that are recomputed in one way."""

    modules: str
    """A pattern of dotted names (fnmatch), as `--checkpoint-blocks` takes it; empty: the network
    itself."""
    way: CheckpointWay


def parsed_patterns(text: str) -> tuple[str, ...]:
    """The patterns of a comma-separated list, each once."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
