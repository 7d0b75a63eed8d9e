"""The workload of a trial by name: the network, and the user's own loss, optimizer and batches."""

import ast
import json
import sys
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from bsprobe.records.errors import UsageError
from bsprobe.records.habits import COMMONEST, Habits

TORCHVISION: Final = "torchvision:"
TIMM: Final = "timm:"
HUGGING_FACE: Final = "hf:"
"""Before the path of a configuration that transformers reads."""
SMP: Final = "smp:"
"""Before the name of an architecture of segmentation_models_pytorch."""
PREFIXES: Final = (TORCHVISION, TIMM, HUGGING_FACE, SMP)
"""Beginnings of the names of networks that other packages build."""
BUILT_IN: Final = ("deeplabv2-resnet50", "deeplabv2-resnet101", "deeplabv2-mini")
"""The networks of this package; a test holds this to its factory."""
MODEL_FORMS: Final = (
    *BUILT_IN,
    f"{TORCHVISION}NAME",
    f"{TIMM}NAME",
    f"{SMP}ARCHITECTURE",
    f"{HUGGING_FACE}CONFIG.json",
    "PACKAGE.MODULE:NAME",
)
"""The names of models, or their forms."""
_PACKAGES: Final = {
    TIMM: ("timm", f"{TIMM}NAME"),
    SMP: ("segmentation_models_pytorch", f"{SMP}ARCHITECTURE"),
    HUGGING_FACE: ("transformers", f"{HUGGING_FACE}CONFIG.json"),
}
"""By prefix the module that is not required, and the form of a name."""
CALLABLE_HINT: Final = (
    "give package.module:callable, importable from the folder you are in, or file.py:callable"
)
_SEGMENTATION: Final = ("fcn_", "deeplabv3_", "lraspp_")
"""Beginnings of the names of torchvision's segmentation models; a test holds this to its list."""
_TOP_LEVEL = (
    "trials run in processes of their own, which import it by name: define it with def or class at "
    "the top level of a module or of the script you run"
)


class Problem(StrEnum):
    """The kind of prediction that a network makes, which decides labels and loss."""

    SEGMENTATION = "segmentation"
    """A class for each pixel."""
    CLASSIFICATION = "classification"
    """A class for each image."""


CLASSES: Final = {Problem.SEGMENTATION: 19, Problem.CLASSIFICATION: 1000}
"""Of Cityscapes and of ImageNet: what networks of these kinds are built for."""


def problem_of(model: str) -> Problem:
    """The problem of a model, by its name.

    That of other people's networks is told from their logits, once they are built.
    """
    is_torchvision = model.startswith(TORCHVISION)
    segments = model.removeprefix(TORCHVISION).startswith(_SEGMENTATION)
    if model.startswith(TIMM) or (is_torchvision and not segments):
        return Problem.CLASSIFICATION
    return Problem.SEGMENTATION


def is_told_by_logits(model: str) -> bool:
    """True for models whose problem and classes only their logits tell."""
    return is_factory(model) or model.startswith(HUGGING_FACE)


def has_recipe(model: str) -> bool:
    """True for the built-in DeepLabV2 networks, whose paper says how they are trained."""
    return model.startswith("deeplabv2-")


def is_factory(model: str) -> bool:
    """True for `package.module:factory` and `file.py:factory`."""
    return ":" in model and not model.startswith(PREFIXES)


def keeps_own_norm(model: str) -> bool:
    """True for models that are built with a norm of their own unless another is asked for."""
    is_segmentation = problem_of(model) is Problem.SEGMENTATION
    return ":" in model and not (model.startswith(TORCHVISION) and is_segmentation)


def package_of(prefix: str) -> str:
    """The module that builds the networks of a prefix: `timm` of `timm:`."""
    return _PACKAGES[prefix][0]


def without_package(prefix: str) -> UsageError:
    """The error for a network whose package is not installed."""
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
"""The losses that are built in, and the labels that each is computed from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnParts:
    """User-supplied parts of a training; the same for all variants of a run.

    Callables are named as `package.module:callable` or `file.py:callable`.
    """

    model_args: tuple[tuple[str, str], ...] = ()
    """Keyword arguments of what builds the network: their names, and their values as typed."""
    loss: str | None = None
    """One of `LOSSES`, or a callable: outputs and targets in, a scalar out."""
    optimizer: str | None = None
    """A callable: the network in, its optimizer out."""
    batches: str | None = None
    """A callable: a batch size in, inputs and targets out."""
    habits: Habits = COMMONEST
    """Those of the loop."""
    checkpoint_blocks: str | None = None
    """Patterns of the modules that are recomputed, by their dotted names (fnmatch), separated by
    commas; None: the blocks that are found."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of what builds the network, their values read."""
        return {name: value_of(text) for name, text in self.model_args}

    @property
    def own_loss(self) -> str | None:
        """The name of the loss that is your own, None where it is a built-in one."""
        return None if self.loss in LOSSES else self.loss

    @property
    def changes_the_step(self) -> bool:
        """True where the loss, the optimizer or the batches are not ours."""
        return any((self.own_loss, self.optimizer, self.batches))

    def options(self) -> list[str]:
        """The words of a command line that say the same."""
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
        return words + (["--loop", str(self.habits)] if self.habits != COMMONEST else [])


NOTHING_OWN: Final = OwnParts()


def value_of(text: str) -> Any:
    """A value as typed: a literal of Python or JSON (`3`, `[1, 2]`, `None`, `true`), else text."""
    for read in (ast.literal_eval, json.loads):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # what either may raise
            continue
    return text


def name_of(part: object, what: str) -> str:
    """The name by which a worker can import a function or class.

    Raises:
        UsageError: It has none: a lambda, something local, defined in a notebook …
    """
    module, name = getattr(part, "__module__", None), getattr(part, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        raise UsageError(
            f"{what}: a {type(part).__name__} object has no name to import it by", hint=_TOP_LEVEL
        )
    for mark, kind in (("<lambda>", "a lambda"), ("<locals>", "local to a function")):
        if mark in name:
            raise UsageError(f"{what}: {name} is {kind}", hint=_TOP_LEVEL)
    try:
        is_there = attrgetter(name)(sys.modules[module]) == part
    except (KeyError, AttributeError):
        is_there = False
    if not is_there:
        raise UsageError(
            f"{what}: {module} has something else, or nothing, under the name {name}",
            hint=_TOP_LEVEL,
        )
    return f"{_place_of_main(what) if module == '__main__' else module}:{name}"


def _place_of_main(what: str) -> str:
    """The name to import the running program by, as multiprocessing's spawn finds it."""
    main = sys.modules["__main__"]
    if main.__spec__ is not None:  # python -m package.module
        return main.__spec__.name
    path = Path(getattr(main, "__file__", None) or "")
    if path.suffix != ".py" or not path.is_file():
        raise UsageError(
            f"{what}: it is defined in a notebook or typed in, not in a file",
            hint=_TOP_LEVEL,
        )
    whole = path.resolve()
    here = Path.cwd()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else whole)
