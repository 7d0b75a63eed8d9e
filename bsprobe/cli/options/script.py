"""A user's command after `--`, and the options that are for it alone."""

import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from bsprobe.cli.command import Command
from bsprobe.cli.options.recipe import asked_target
from bsprobe.cli.options.values import Command as AnyCommand
from bsprobe.cli.options.values import count, number
from bsprobe.records.errors import FileError, UsageError
from bsprobe.records.runs import DeviceRequest, Settings
from bsprobe.records.scripts import (
    BATCH,
    BATCH_VARIABLE,
    SECONDS,
    WARMUP_STEPS,
    Script,
)
from bsprobe.records.variants import Norm, Variant
from bsprobe.storage.files import open_regular

EXAMPLE: Final = "bsprobe run -- python train.py --batch-size {batch}"
_SERVED: Final = frozenset(
    {
        *("command", "device", "memory_limits", "target_batch", "base_batch", "base_lr"),
        *("base_updates", "lr_rule", "headroom", "max_batch", "batch_multiple", "seconds"),
        *("steps", "warmup_steps", "trial_timeout", "time_limit", "out", "resume", "dry_run"),
    }
)
"""The parameters of `bsprobe run` that a command is run with; the others describe a network."""
_OPTIONS: Final = (
    count(
        "--batch-multiple",
        "batch_multiple",
        "Try only multiples of this number.",
        default=1,
    ),
    number(
        "--seconds",
        "seconds",
        "SECONDS",
        "With a command: time without an optimizer step after which a trial of it ends. It is "
        f"undecided if it uses PyTorch, else it counts as run.  [default: {SECONDS:g}]",
    ),
    click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]"),
)


def script_options(command: AnyCommand) -> AnyCommand:
    """Add the command and its options to a command of bsprobe."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def script_settings(given: Mapping[str, Any]) -> Settings | None:
    """Convert the options of a run of a user's command to settings; None without a command.

    Raises:
        UsageError: The command has no place for the batch, or an option does not apply to it.
    """
    words: tuple[str, ...] = given["command"]
    if not words:
        if given["seconds"] is not None:
            raise UsageError("--seconds needs a command", hint=f"for example: {EXAMPLE}")
        return None
    _require_served()
    script = Script(command=words, seconds=given["seconds"] or SECONDS)
    _require_place(script)
    limits = given["memory_limits"] or ()
    if len(limits) > 1:
        raise UsageError(
            f"--memory-limit: {len(limits)} limits for a command",
            hint="give one: it holds for each process of the command",
        )
    return Settings(
        variants=(
            Variant(
                model=script.name, resolution=None, norm=Norm.AS_BUILT, classes=None, script=script
            ),
        ),
        device=DeviceRequest(
            device=given["device"], memory_limit_bytes=limits[0] if limits else None
        ),
        target=asked_target(given),
        max_batch=given["max_batch"],
        batch_multiple=given["batch_multiple"],
        trial_timeout_seconds=given["trial_timeout"],
        time_limit_seconds=given["time_limit"],
        warmup_steps=given["warmup_steps"] or WARMUP_STEPS,
        measured_steps=given["steps"],
    )


def require_program(script: Script) -> None:
    """Check that the program of a command exists.

    Raises:
        UsageError: It does not.
    """
    program = script.command[0]
    if shutil.which(program) is None:
        is_file = Path(program).is_file()
        raise UsageError(
            f"the command starts '{program}', which "
            + ("is not executable" if is_file else "is not found"),
            hint=f"start it with its interpreter: python {program}"
            if is_file
            else "give the command as you type it into a shell",
        )


class ScriptCommand(Command):
    """A command of bsprobe that takes a user's command after `--`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as `Command` does, and require `--` before the user's command.

        Raises:
            UsageError: A word that is no option stands before `--`, or there is none.
        """
        typed = list(args)
        if "--" not in typed and any(BATCH in word for word in typed):
            at = self._end_of_options(typed)
            meant = shlex.join([*typed[:at], "--", *typed[at:]]).replace(f"'{BATCH}'", BATCH)
            raise UsageError("a command to probe must follow --", hint=f"type: bsprobe run {meant}")
        if typed[-1:] == ["--"]:
            raise UsageError("there is no command after --", hint=f"for example: {EXAMPLE}")
        rest = super().parse_args(ctx, args)
        words: tuple[str, ...] = ctx.params.get("command") or ()
        before = len(words) - len(typed[typed.index("--") + 1 :] if "--" in typed else [])
        if before > 0:
            raise UsageError(
                f"unexpected argument '{words[0]}'",
                hint=f"options begin with --; a command to probe follows --: {EXAMPLE}",
            )
        return rest

    def _end_of_options(self, typed: list[str]) -> int:
        """The number of words of bsprobe's own options before the user's command."""
        options = {name: each for each in self.params for name in each.opts}
        at = 0
        while at < len(typed) and (option := options.get(typed[at].partition("=")[0])):
            takes_value = isinstance(option, click.Option) and not option.is_flag
            at += 2 if takes_value and "=" not in typed[at] else 1
        return min(at, len(typed))


def _require_served() -> None:
    """Raise UsageError for a typed option that describes a network."""
    ctx = click.get_current_context(silent=True)
    if ctx is None:
        return  # not the command line
    for parameter in ctx.command.params:
        name = parameter.name or ""
        is_typed = ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if is_typed and name not in _SERVED:
            raise UsageError(
                f"{parameter.opts[0]} does not apply to a command",
                hint=f"leave {parameter.opts[0]} out; the script decides it",
            )


def _require_place(script: Script) -> None:
    """Raise UsageError for a command that no batch reaches."""
    if script.names(BATCH) or script.names(BATCH_VARIABLE):
        return
    if any(_reads_variable(word) for word in script.command):
        return
    raise UsageError(
        f"the command has no {BATCH}",
        hint=f"write {BATCH} where the number goes; if the program reads a variable: "
        f"env BATCH_SIZE={BATCH} {script}",
    )


def _reads_variable(word: str) -> bool:
    """Return whether a word names a file that reads the variable with the batch."""
    try:
        with open_regular(Path(word)) as file:
            return BATCH_VARIABLE.encode() in file.read(1 << 20)
    except (OSError, ValueError, FileError):
        return False
