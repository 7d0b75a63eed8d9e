"""Your own callables, by the names that command lines and records give them."""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

from bsprobe.records.errors import UsageError

_HINT = "give package.module:callable, importable from the folder you are in, or file.py:callable"
_FAILED = "the module is there, and fails while it is imported"


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
        module = _file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except Exception as error:
        raise _failed_import(option, name, where, error) from error
    try:
        found = attrgetter(what)(module)
    except AttributeError as error:
        raise UsageError(f"{option} {name}: {error}", hint=_HINT) from error
    if not callable(found):
        raise UsageError(
            f"{option} {name}: it is a {type(found).__name__} and cannot be called",
            hint="give a function or a class",
        )
    loaded: Callable[..., Any] = found
    return loaded


def _failed_import(option: str, name: str, where: str, error: Exception) -> UsageError:
    """What to say of a module that is not there, or that is and fails."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    is_missing = isinstance(error, ModuleNotFoundError) and f"{where}.".startswith(f"{error.name}.")
    if isinstance(error, SyntaxError):  # which says where itself
        return UsageError(f"{option} {name}: {error}", hint=_FAILED)
    if is_missing or "importlib" in frame.filename:
        return UsageError(f"{option} {name}: {error}", hint=_HINT)
    place = f"{Path(frame.filename).name}, line {frame.lineno}"
    what = f"{type(error).__name__}: {error} ({place})"
    return UsageError(f"{option} {name}: {what}", hint=_FAILED)


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
