"""Your own callables, by the names that command lines and records give them."""

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
from bsprobe.records.workload import CALLABLE_HINT

_FAILED: Final = "the module is there, and fails while it is imported"
_GUARD: Final = (
    'put the training under `if __name__ == "__main__":`, or the network into a file of its own'
)
_PACKAGES: Final = (
    *("site-packages", "dist-packages", "importlib", "<frozen"),
    sysconfig.get_paths()["stdlib"],
)
"""Parts of the file names of frames that are not the user's."""


class _TrainingError(BaseException):
    """Ends an import that begins to train; no `except Exception` of the file catches it."""


def load_callable(option: str, name: str) -> Callable[..., Any]:
    """Import what a name names.

    Args:
        option: The option that named it, for complaints.
        name: `package.module:callable` or `file.py:callable`; dots after the colon go into classes.

    Raises:
        UsageError: There is no such module or nothing of this name in it, or it cannot be called.
    """
    where, _, what = name.partition(":")
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
            f"{option} {name}: it is a {type(found).__name__} and cannot be called",
            hint="give a function or a class",
        )
    loaded: Callable[..., Any] = found
    return loaded


def _near(what: str, module: ModuleType) -> str:
    """A hint that names the nearest thing in a module that can be called."""
    known = [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]
    near = difflib.get_close_matches(what, known, n=1)
    return f"did you mean {near[0]}?" if near else CALLABLE_HINT


@contextmanager
def _without_training() -> Iterator[None]:
    """Stop an import that computes gradients: a script trains whenever it is imported."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise _TrainingError

    with mock.patch.object(torch.autograd, "backward", refuse):
        yield


def _failed_import(option: str, name: str, where: str, error: BaseException) -> UsageError:
    """The error for a module that is not there, or that is and fails."""
    is_missing = isinstance(error, ModuleNotFoundError) and f"{where}.".startswith(f"{error.name}.")
    if isinstance(error, SyntaxError):  # which says where itself
        return UsageError(f"{option} {name}: {error}", hint=_FAILED)
    place = _place(error)
    if isinstance(error, _TrainingError):
        return UsageError(
            f"{option} {name}: it starts to train when it is imported{place}", hint=_GUARD
        )
    if isinstance(error, SystemExit):
        return UsageError(
            f"{option} {name}: it ends the program when it is imported{place}", hint=_GUARD
        )
    if is_missing or not place:
        return UsageError(f"{option} {name}: {error}", hint=CALLABLE_HINT)
    return UsageError(f"{option} {name}: {type(error).__name__}: {error}{place}", hint=_FAILED)


def _place(error: BaseException) -> str:
    """The last line of the user's own that a traceback goes through: ` (unet.py, line 12)`."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and not any(part in frame.filename for part in _PACKAGES)
    ]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def _file(path: Path) -> ModuleType:
    """The module of a file, run once, and not as a program; its neighbours can be imported."""
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
    sys.modules[name] = module  # before it runs: dataclasses and pickles look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
