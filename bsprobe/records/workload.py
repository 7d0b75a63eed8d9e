"""Names of networks, and the user-supplied parts of a workload as import paths."""

import ast
import json
import sys
import warnings
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from bsprobe.records.drawn import Drawn
from bsprobe.records.errors import UsageError
from bsprobe.records.habits import COMMONEST, Habits

TORCHVISION: Final = "torchvision:"
TIMM: Final = "timm:"
HUGGING_FACE: Final = "hf:"
"""The prefix of the path of a transformers configuration."""
SMP: Final = "smp:"
"""The prefix of an architecture of segmentation_models_pytorch."""
PREFIXES: Final = (TORCHVISION, TIMM, HUGGING_FACE, SMP)
"""The prefixes of networks that other packages build."""
BUILT_IN: Final = ("deeplabv2-resnet50", "deeplabv2-resnet101", "deeplabv2-mini")
"""The networks of bsprobe; a test compares them with the factory."""
MODEL_FORMS: Final = (
    *BUILT_IN,
    f"{TORCHVISION}NAME",
    f"{TIMM}NAME",
    f"{SMP}ARCHITECTURE",
    f"{HUGGING_FACE}CONFIG.json",
    "PACKAGE.MODULE:NAME",
)
"""The accepted forms of `--model`."""
_PACKAGES: Final = {
    TIMM: ("timm", f"{TIMM}NAME"),
    SMP: ("segmentation_models_pytorch", f"{SMP}ARCHITECTURE"),
    HUGGING_FACE: ("transformers", f"{HUGGING_FACE}CONFIG.json"),
}
"""By prefix: the optional package, and the form of a model's name."""
CALLABLE_HINT: Final = (
    "give package.module:callable, importable from the folder you are in, or file.py:callable"
)
_SEGMENTATION: Final = ("fcn_", "deeplabv3_", "lraspp_")
"""Prefixes of torchvision's segmentation models; a test compares them with torchvision's list."""
_TOP_LEVEL = (
    "trials run in separate processes that import it by name: define it with def or class at the "
    "top level of a module or of the script you run"
)


class Problem(StrEnum):
    """The problem that a network solves, which decides labels and loss."""

    SEGMENTATION = "segmentation"
    """One class per pixel."""
    CLASSIFICATION = "classification"
    """One class per image."""


CLASSES: Final = {Problem.SEGMENTATION: 19, Problem.CLASSIFICATION: 1000}
"""The default numbers of classes: those of Cityscapes and ImageNet."""


def problem_of(model: str) -> Problem:
    """Return the problem of a model by its name.

    The problem of other networks (`is_told_by_logits`) is found from their logits later.
    """
    is_torchvision = model.startswith(TORCHVISION)
    segments = model.removeprefix(TORCHVISION).startswith(_SEGMENTATION)
    if model.startswith(TIMM) or (is_torchvision and not segments):
        return Problem.CLASSIFICATION
    return Problem.SEGMENTATION


def is_told_by_logits(model: str) -> bool:
    """Return whether the problem and classes of a model are found from its logits."""
    return is_factory(model) or model.startswith(HUGGING_FACE)


def has_recipe(model: str) -> bool:
    """Return whether a model has a training recipe: the built-in DeepLabV2 networks."""
    return model.startswith("deeplabv2-")


def is_factory(model: str) -> bool:
    """Return whether a name has the form `package.module:factory` or `file.py:factory`."""
    return ":" in model and not model.startswith(PREFIXES)


def split_path(name: str) -> tuple[str, str]:
    """Split `package.module:callable` or `file.py:callable`; without a colon the callable is empty.

    The last colon counts: the path of a file may have others.
    """
    where, colon, what = name.rpartition(":")
    return (where, what) if colon else (name, "")


def keeps_own_norm(model: str) -> bool:
    """Return whether a model keeps its own norm unless another one is requested."""
    is_segmentation = problem_of(model) is Problem.SEGMENTATION
    return ":" in model and not (model.startswith(TORCHVISION) and is_segmentation)


def package_of(prefix: str) -> str:
    """Return the module that builds the networks of a prefix: `timm` for `timm:`."""
    return _PACKAGES[prefix][0]


def without_package(prefix: str) -> UsageError:
    """Make the error for a network whose package is not installed."""
    module, form = _PACKAGES[prefix]
    name = module.replace("_", "-")
    return UsageError(
        f"--model {form} needs the package {name}, which is not installed",
        hint=f"pip install {name}",
    )


LOSSES: Final = {
    "pixel-cross-entropy": Problem.SEGMENTATION,
    "image-cross-entropy": Problem.CLASSIFICATION,
}
"""The built-in losses, and the problem of each."""


BATCHES_SEEN: Final = 8
"""The default of the number of user-supplied batches to draw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnParts:
    """User-supplied parts of a workload, the same for all variants of a run.

    Callables are given as `package.module:callable` or `file.py:callable`.
    """

    model_args: tuple[tuple[str, str], ...] = ()
    """Keyword arguments of the network's factory: names, and values as typed."""
    loss: str | None = None
    """One of `LOSSES`, or a callable: outputs and targets in, a scalar out."""
    optimizer: str | None = None
    """A callable: the network in, its optimizer out."""
    batches: str | None = None
    """A callable: a batch size in, inputs and targets out."""
    batches_seen: int = field(default=1, compare=False)
    """The number of batches to draw, to find out whether their sizes vary; 1 in older files."""
    drawn: Drawn | None = field(default=None, compare=False)
    """The sizes of the batches that were drawn; None until the worker has drawn them."""
    habits: Habits = COMMONEST
    """The habits of the training loop."""
    checkpoint_blocks: str | None = None
    """Comma-separated fnmatch patterns of the dotted names of modules to recompute; None for the
    blocks that bsprobe finds."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of the network's factory, with parsed values."""
        return {name: value_of(text) for name, text in self.model_args}

    @property
    def own_loss(self) -> str | None:
        """The user-supplied loss; None for a built-in loss."""
        return None if self.loss in LOSSES else self.loss

    @property
    def changes_the_step(self) -> bool:
        """True if the loss, the optimizer or the batches are user-supplied."""
        return any((self.own_loss, self.optimizer, self.batches))

    def options(self) -> list[str]:
        """Return the equivalent command-line arguments."""
        words = [
            word for name, text in self.model_args for word in ("--model-arg", f"{name}={text}")
        ]
        named = (
            ("--loss", self.loss),
            ("--optimizer-from", self.optimizer),
            ("--batch-from", self.batches),
            ("--checkpoint-blocks", self.checkpoint_blocks),
        )
        words += [word for option, name in named if name for word in (option, name)]
        if self.batches is not None and self.batches_seen != BATCHES_SEEN:
            words += ["--batches-seen", str(self.batches_seen)]
        return words + (["--loop", str(self.habits)] if self.habits != COMMONEST else [])


NOTHING_OWN: Final = OwnParts()


def value_of(text: str) -> Any:
    r"""Parse a literal of Python or JSON (`3`, `[1, 2]`, `None`, `true`); else return the text.

    Infinity and NaN have literals in neither: `inf` is text, only `1e999` is a number. Python warns
    of escapes like `\d`, and finds dicts in the place of a key only when it makes them.
    """
    for read in (ast.literal_eval, json.loads):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return read(text)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def name_of(part: object, what: str) -> str:
    """Return the import path of a function or class for a worker.

    Args:
        part: The function or class.
        what: The part of the workload, for the message.

    Raises:
        UsageError: The part cannot be imported: a lambda, a local function, code in a notebook ...
    """
    module, name = getattr(part, "__module__", None), getattr(part, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        raise UsageError(
            f"{what}: a {type(part).__name__} object has no name to import", hint=_TOP_LEVEL
        )
    for mark, kind in (("<lambda>", "a lambda"), ("<locals>", "local to a function")):
        if mark in name:
            raise UsageError(f"{what}: {name} is {kind}", hint=_TOP_LEVEL)
    try:
        is_there = attrgetter(name)(sys.modules[module]) == part
    except (KeyError, AttributeError):
        is_there = False
    if not is_there:
        raise UsageError(f"{what}: {module}.{name} is not this object", hint=_TOP_LEVEL)
    return f"{_place_of_main(what) if module == '__main__' else module}:{name}"


def _place_of_main(what: str) -> str:
    """Return the import path of the running program, as multiprocessing's spawn finds it."""
    main = sys.modules["__main__"]
    if main.__spec__ is not None:  # python -m package.module
        return main.__spec__.name
    path = Path(getattr(main, "__file__", None) or "")
    if path.suffix != ".py" or not path.is_file():
        raise UsageError(
            f"{what} is not defined in a file, but in a notebook or an interactive session",
            hint=_TOP_LEVEL,
        )
    whole = path.resolve()
    here = Path.cwd()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else whole)
