"""Lookup of callables in the source text of Python files, without importing them.

An import takes as long as everything that it imports, and this finds a misspelt name at once. A
name that cannot be decided from the text is left to the import.
"""

import ast
import difflib
import importlib
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

from bsprobe.records.errors import UsageError
from bsprobe.records.printable import shell_word
from bsprobe.records.workload import CALLABLE_HINT, split_path
from bsprobe.storage.files import read_file

_OWN_SCOPE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_LITERALS = (ast.Constant, ast.JoinedStr, ast.List, ast.Tuple, ast.Dict, ast.Set)
_MOST_LISTED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceNames:
    """The names that a module binds at its top level."""

    names: frozenset[str]
    callables: tuple[str, ...]
    """Public functions and classes, in the order of the text."""
    literals: frozenset[str]
    """Names that are bound only to literals, which cannot be called."""
    is_open: bool
    """True if the module may have further names, as with `from x import *`."""


def require_callable(option: str, name: str) -> None:
    """Refuse a callable that certainly does not exist, without importing it.

    Args:
        option: The option, for messages.
        name: `package.module:callable` or `file.py:callable`; `module:Class.method` is allowed.

    Raises:
        UsageError: The file or module does not exist, is not valid Python, or lacks the callable.
    """
    where, what = split_path(name)
    path = source_path(option, name)
    if what and not all(part.isidentifier() for part in what.split(".")):
        raise UsageError(f"{option} {name}: '{what}' is not a name of Python", hint=CALLABLE_HINT)
    if path is None:
        return
    shown = path.name if where.endswith(".py") else where
    source = read_names(option, name, path)
    wanted = what.partition(".")[0]
    if not wanted:
        raise UsageError(f"{option}: '{name}' names no callable", hint=_those_of(where, source))
    if wanted in source.literals:
        raise UsageError(
            f"{option} {name}: '{wanted}' is not a function or class of {shown}",
            hint=_those_of(where, source),
        )
    if wanted in source.names or source.is_open:
        return
    near = difflib.get_close_matches(wanted, source.callables or sorted(source.names), n=1)
    suggestion = f"did you mean {shell_word(f'{where}:{near[0]}')}? " if near else ""
    raise UsageError(
        f"{option} {name}: {shown} has no '{wanted}'",
        hint=suggestion + _those_of(where, source),
    )


def require_arguments(name: str, given: Iterable[str]) -> None:
    """Refuse arguments that a network's factory certainly does not take.

    Args:
        name: The factory, already checked by `require_callable`.
        given: The names of the arguments.

    Raises:
        UsageError: The factory does not take an argument; the nearest one is suggested.
    """
    where, what = split_path(name)
    path = source_path("--model", name)
    if path is None or "." in what:
        return
    taken = _arguments_of(ast.parse(read_file(path)), what)
    if taken is None:
        return
    for argument in sorted(set(given) - set(taken)):
        near = difflib.get_close_matches(argument, taken, n=1)
        raise UsageError(
            f"--model-arg {argument}: {what} of {where} has no such argument",
            hint=(f"did you mean {near[0]}? " if near else "")
            + f"it takes {', '.join(taken) or 'none'}",
        )


def _arguments_of(tree: ast.Module, what: str) -> tuple[str, ...] | None:
    """Return the arguments of a function or of a class's `__init__`; None if undecidable."""
    found = [each for each in tree.body if getattr(each, "name", None) == what]
    if len(found) != 1 or getattr(found[0], "decorator_list", None):
        return None
    if isinstance(found[0], ast.ClassDef):
        found = [each for each in found[0].body if getattr(each, "name", None) == "__init__"]
    function = found[0] if len(found) == 1 else None
    if not isinstance(function, ast.FunctionDef) or function.args.kwarg or function.decorator_list:
        return None
    arguments = [each.arg for each in (*function.args.args, *function.args.kwonlyargs)]
    return tuple(arguments[1:] if function.name == "__init__" else arguments)


def callables_hint(where: str) -> str | None:
    """List the callables of a file or module as a hint; None if it cannot be found or parsed."""
    with suppress(UsageError):
        path = source_path("", where)
        if path is not None:
            return _those_of(where, read_names("", where, path))
    return None


def source_path(option: str, name: str) -> Path | None:
    """Return the source file of the module in a name; None if undecidable without an import.

    Raises:
        UsageError: The file or module certainly does not exist.
    """
    where, _ = split_path(name)
    if where.endswith(".py"):
        path = Path(where)
        if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises if a name is too long
            if os.path.exists(path):  # noqa: PTH110 - as above
                raise UsageError(f"{option} {name}: {where} is not a file", hint=CALLABLE_HINT)
            raise _missing(option, name, f"{where} does not exist", path)
        return path
    if not all(part.isidentifier() for part in where.split(".")):
        raise _missing(option, name, f"'{where}' is not a module name", Path(f"{where}.py"))
    spec = _spec_of(option, name)
    origin = None if spec is None else spec.origin
    return Path(origin) if origin is not None and origin.endswith(".py") else None


def read_names(option: str, name: str, path: Path) -> SourceNames:
    """Read the names that a Python file binds.

    Args:
        option: The option, for messages.
        name: The value of the option, for messages.
        path: The file.

    Raises:
        UsageError: The file is not valid Python; the message has the file and the line.
        FileError: The file cannot be read.
    """
    text = read_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the import repeats them
            tree = ast.parse(text, filename=str(path))
            compile(tree, str(path), "exec", dont_inherit=True)
        return _names_of(tree)
    except SyntaxError as error:
        place = f"{path.name}, line {error.lineno}" if error.lineno else path.name
        line = (error.text or "").strip()
        raise UsageError(
            f"{option} {name}: {place}: {error.msg}" + (f": {line}" if line else ""),
            hint="fix the file so that Python can parse it",
        ) from error
    except ValueError as error:  # a null byte in the text
        raise UsageError(
            f"{option} {name}: {path.name}: {error}",
            hint="fix the file so that Python can parse it",
        ) from error
    except (RecursionError, MemoryError):
        nothing = frozenset[str]()
        return SourceNames(names=nothing, callables=(), literals=nothing, is_open=True)


def _names_of(tree: ast.Module) -> SourceNames:
    bound: Counter[str] = Counter()
    literal: Counter[str] = Counter()
    defined: list[str] = []
    for node in _top_level(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.append(node.name)
        elif isinstance(node, ast.alias):
            bound[node.asname or node.name.partition(".")[0]] += 1
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound[node.id] += 1
        elif isinstance(node, ast.Assign) and isinstance(node.value, _LITERALS):
            literal.update(each.id for each in node.targets if isinstance(each, ast.Name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            bound.update(node.names)
    bound.update(defined)
    return SourceNames(
        names=frozenset(bound),
        callables=tuple(dict.fromkeys(each for each in defined if not each.startswith("_"))),
        literals=frozenset(each for each in literal if literal[each] == bound[each]),
        is_open="*" in bound or "__getattr__" in defined or any(map(_may_bind, ast.walk(tree))),
    )


def _top_level(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes outside of functions and classes."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, _OWN_SCOPE):
            yield from _top_level(child)


def _may_bind(node: ast.AST) -> bool:
    """Return whether a node can bind names that the text does not show."""
    if isinstance(node, ast.Name):
        return node.id in ("globals", "vars", "exec", "setattr")
    return isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.modules"


def _spec_of(option: str, name: str) -> ModuleSpec | None:
    """Find the spec of a module; None if a package's own code may decide its modules."""
    where, _ = split_path(name)
    top, *parts = where.split(".")
    importlib.invalidate_caches()
    # The importing process searches the working folder first; this process may not.
    spec = PathFinder.find_spec(top, [str(Path.cwd()), *sys.path])
    if spec is None:
        try:
            spec = find_spec(top)
        except (ImportError, ValueError):  # a module in sys.modules without a spec
            return None
    found = top
    for part in parts:
        if spec is None:
            break
        found = f"{found}.{part}"
        package = spec
        spec = PathFinder.find_spec(found, list(package.submodule_search_locations or ()))
        if spec is None and _decides_itself(package):
            return None
    if spec is None:
        file = Path(*where.split(".")).with_suffix(".py")
        raise _missing(option, name, f"no module named {found}", file)
    return spec


def _decides_itself(package: ModuleSpec) -> bool:
    """Return whether a package's own code may decide its modules."""
    if package.origin is None or not package.origin.endswith(".py"):
        return package.origin is not None
    with suppress(OSError):
        text = Path(package.origin).read_bytes()
        return any(mark in text for mark in (b"__path__", b"sys.modules", b"__getattr__"))
    return True


def _missing(option: str, name: str, what: str, path: Path) -> UsageError:
    """Make the error for a missing file or module, with the nearest file in the hint."""
    where, named = split_path(name)
    folder = path.parent
    known = [each.name for each in sorted(folder.glob("*.py"))] if folder.is_dir() else []
    if not where.endswith(".py"):
        known = [each for each in known if each.removesuffix(".py").isidentifier()]
    near = difflib.get_close_matches(path.name, known, n=1)
    hint = CALLABLE_HINT
    if near:
        meant = str(folder / near[0])
        if not where.endswith(".py") and os.sep not in where:
            meant = ".".join([*where.split(".")[:-1], near[0].removesuffix(".py")])
        hint = f"did you mean {shell_word(':'.join([meant, named or 'NAME']))}?"
    return UsageError(f"{option} {name}: {what}", hint=hint)


def _those_of(where: str, source: SourceNames) -> str:
    """Make the hint that lists the functions and classes of a module."""
    if not source.callables:
        return f"{where} defines no function or class; {CALLABLE_HINT}"
    more = len(source.callables) - _MOST_LISTED
    listed = ", ".join(source.callables[:_MOST_LISTED])
    return f"{where} has {listed}" + (f" and {more} more" if more > 0 else "")
