"""The class of all commands: rejects repeated options and translates options of other tools."""

from collections import Counter
from inspect import cleandoc
from types import MappingProxyType
from typing import Any, Final

import click

from bsprobe.records.errors import UsageError

_SIZES = ("--resolution HEIGHTxWIDTH", "--size HxW")
_BATCHES = ("--target-batch N", "--batches LIST", "--batch N", "--micro-batch N", "--max-batch N")
_OTHERS: Final = MappingProxyType(
    {
        "amp": ("--precision amp-fp16",),
        "arch": ("--model NAME",),
        "backbone": ("--model NAME",),
        "bf16": ("--precision amp-bf16",),
        "bs": _BATCHES,
        "batch-size": _BATCHES,
        "benchmark": ("--cudnn-benchmark on",),
        "channels": ("--input CxHxW",),
        "channels-last": ("--memory-format nhwc",),
        "checkpoint": ("--weights PATH", "--checkpointing on"),
        "classes": ("--model-arg num_classes=N",),
        "crop-size": _SIZES,
        "data-dir": ("--data ROOT",),
        "dataset": ("--data ROOT",),
        "fp16": ("--precision amp-fp16",),
        "fp32": ("--precision fp32",),
        "gpus": ("--gpu NAME", "--processes N"),
        "grad-accum": ("--target-batch N", "--micro-batch N"),
        "grad-checkpointing": ("--checkpointing on",),
        "gradient-checkpointing": ("--checkpointing on",),
        "image-size": _SIZES,
        "img-size": _SIZES,
        "imgsz": _SIZES,
        "in-channels": ("--input CxHxW",),
        "in-chans": ("--input CxHxW",),
        "input-size": ("--input CxHxW", *_SIZES),
        "learning-rate": ("--base-lr RATE",),
        "lr": ("--base-lr RATE",),
        "max-batch-size": ("--max-batch N",),
        "mem": ("--memory-limit SIZE",),
        "memory": ("--memory-limit SIZE",),
        "mixed-precision": ("--precision amp-fp16",),
        "network": ("--model NAME",),
        "nproc-per-node": ("--processes N",),
        "num-classes": ("--model-arg num_classes=N",),
        "num-gpus": ("--processes N",),
        "num-workers": ("--workers N",),
        "opt": ("--optimizer NAME",),
        "optim": ("--optimizer NAME",),
        "output": ("--out FOLDER",),
        "output-dir": ("--out FOLDER",),
        "save-dir": ("--out FOLDER",),
        "size": _SIZES,
        "timeout": ("--trial-timeout SECONDS", "--training-timeout SECONDS"),
        "vram": ("--memory-limit SIZE", "--capacity SIZE"),
        "world-size": ("--processes N",),
    }
)
"""Options of common training scripts, without leading hyphens, and their equivalents here."""
_MOST_NAMED = 2
"""Equivalents that a hint names at most."""


class Command(click.Command):
    """A command that rejects repeated options and suggests options for those of other tools.

    Its help is the docstring of its function up to `Args:`.
    """

    def __init__(self, name: str | None, **attributes: Any) -> None:
        super().__init__(name, **attributes)
        self.help = cleandoc(self.help or "").partition("\nArgs:")[0].rstrip()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, after the checks of this class.

        Raises:
            UsageError: An option is repeated, or is known by another name here.
        """
        if not ctx.resilient_parsing:
            try:
                _, _, typed = self.make_parser(ctx).parse_args(args=list(args))
            except click.NoSuchOption as error:
                hint = self._meant(error.option_name)
                if hint is None:
                    raise
                # The hint replaces click's suggestions.
                raise UsageError(error.message, hint=hint) from error
            _require_once(typed)
        return super().parse_args(ctx, args)

    def _meant(self, option: str) -> str | None:
        """The hint for an option of other tools, or None if the command has no equivalent."""
        known = {name for parameter in self.params for name in parameter.opts}
        name = option.lstrip("-").replace("_", "-").lower()
        here = [each for each in _OTHERS.get(name, ()) if each.partition(" ")[0] in known]
        if not here and f"--{name}" in known:
            here = [f"--{name}"]
        return f"give {' or '.join(here[:_MOST_NAMED])}" if here else None


def _require_once(typed: list[click.Parameter]) -> None:
    """Reject a repeated option, of which click would silently take the last value."""
    for parameter, times in Counter(typed).items():
        if times == 1 or not isinstance(parameter, click.Option):
            continue
        if parameter.multiple or parameter.is_flag or parameter.count:
            continue
        name = parameter.opts[0]
        is_list = parameter.metavar == "LIST"
        raise UsageError(
            f"{name} is given {'twice' if times == 2 else f'{times} times'}",  # noqa: PLR2004
            hint=f"give it once, with commas between its values: {name} A,B"
            if is_list
            else "give it once",
        )
