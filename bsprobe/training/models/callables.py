"""User-supplied callables, imported by the names of command lines and records."""

import difflib
import importlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NoReturn
from unittest import mock

import torch

from bsprobe.records.errors import UsageError
from bsprobe.records.workload import CALLABLE_HINT, split_path

_FAILED: Final = "the module was found, but its import fails"
_GUARD: Final = (
    'put the training under `if __name__ == "__main__":`, or move the network to another file'
)
_PACKAGES: Final = (
    *("site-packages", "dist-packages", "importlib", "<frozen"),
    sysconfig.get_paths()["stdlib"],
)
"""Parts of file names of frames outside the user's code."""


class _TrainingError(BaseException):
    """Raised in an import that starts to train; an `except Exception` does not catch it."""


def load_callable(option: str, name: str) -> Callable[..., Any]:
    """Import a callable by name.

    Args:
        option: The option with this name, for error messages.
        name: `package.module:callable` or `file.py:callable`; dots after the colon go into classes.

    Raises:
        UsageError: The module or the name in it does not exist, or is not callable.
    """
    where, what = split_path(name)
    try:
        with _without_training():
            module = _file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except (Exception, SystemExit, _TrainingError) as error:
        raise _failed_import(option, name, where, error) from error
    try:
        found = attrgetter(what)(module)
    except AttributeError as error:
        raise UsageError(
            f"{option} {name}: {where} has no '{what}'", hint=_near(what, module)
        ) from error
    if not callable(found):
        raise UsageError(
            f"{option} {name}: a {type(found).__name__} cannot be called",
            hint="give a function or a class",
        )
    loaded: Callable[..., Any] = found
    return loaded


def _near(what: str, module: ModuleType) -> str:
    """A hint that names the callable of a module whose name is nearest."""
    known = [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]
    near = difflib.get_close_matches(what, known, n=1)
    return f"did you mean {near[0]}?" if near else CALLABLE_HINT


@contextmanager
def _without_training() -> Iterator[None]:
    """Stop an import that computes gradients, such as of a training script without a main guard."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise _TrainingError

    with mock.patch.object(torch.autograd, "backward", refuse):
        yield


def _failed_import(option: str, name: str, where: str, error: BaseException) -> UsageError:
    """The error for a module that does not exist, or whose import fails."""
    is_missing = isinstance(error, ModuleNotFoundError) and f"{where}.".startswith(f"{error.name}.")
    if isinstance(error, SyntaxError):  # its text has the place
        return UsageError(f"{option} {name}: {error}", hint=_FAILED)
    place = _place(error)
    if isinstance(error, _TrainingError):
        return UsageError(
            f"{option} {name}: importing the module starts a training{place}", hint=_GUARD
        )
    if isinstance(error, SystemExit):
        return UsageError(
            f"{option} {name}: importing the module exits the program{place}", hint=_GUARD
        )
    if is_missing or not place:
        return UsageError(f"{option} {name}: {error}", hint=CALLABLE_HINT)
    return UsageError(f"{option} {name}: {type(error).__name__}: {error}{place}", hint=_FAILED)


def _place(error: BaseException) -> str:
    """The last line of the user's code in a traceback: ` (unet.py, line 12)`."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and not any(part in frame.filename for part in _PACKAGES)
    ]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def _file(path: Path) -> ModuleType:
    """Import a file as a module, once. Modules in its folder can be imported from then on."""
    name = f"bsprobe file {path.resolve()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # noqa: S101 - its name ends in .py
    assert spec.loader is not None  # noqa: S101 - as above
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    sys.modules[name] = module  # before it runs, because dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
