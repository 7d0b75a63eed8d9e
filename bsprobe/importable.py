"""Names by which another process can import what this one has defined."""

import sys
from operator import attrgetter
from pathlib import Path

from bsprobe.errors import UsageError

_TOP_LEVEL = (
    "trials run in processes of their own, which import it by name: define it with def or class at "
    "the top level of a module or of the script you run"
)


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
    """Where the program that runs can be imported from, as multiprocessing's spawn finds it."""
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
