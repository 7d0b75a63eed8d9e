"""Docstrings: their first words, and the arguments of public functions."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.support.commands import ROOT

FOLDERS = ("bsprobe", "tests", "benchmarks", "docs")
QUESTIONS = re.compile(r"(What|Where|Whether|Which|How|Why|Whose?)\b")
MANY = 3
"""Parameters from which on a public function says what each is."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules(folder: str) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def docstrings(tree: ast.Module) -> Iterator[str]:
    """Every string that stands alone: of modules, classes, functions and attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield text.strip()


def public_functions(tree: ast.Module | ast.ClassDef) -> Iterator[Function]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node)
        elif isinstance(node, Function) and not node.name.startswith("_"):
            yield node


def parameters(function: Function) -> list[str]:
    found = function.args
    every = (*found.posonlyargs, *found.args, *found.kwonlyargs)
    return [each.arg for each in every if each.arg not in ("self", "cls")]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_docstring_begins_with_a_noun_or_a_verb(folder: str) -> None:
    found = [
        f"{name}: {text.splitlines()[0]}"
        for name, tree in modules(folder)
        for text in docstrings(tree)
        if QUESTIONS.match(text)
    ]
    assert found == []


def test_a_public_function_of_many_parameters_describes_each() -> None:
    found = []
    for name, tree in modules("bsprobe"):
        for function in public_functions(tree):
            names = parameters(function)
            text = ast.get_docstring(function) or ""
            arguments = text.partition("Args:")[2]
            missing = [
                each for each in names if not re.search(rf"^ +\*?{each}\b", arguments, re.MULTILINE)
            ]
            if len(names) >= MANY and missing:
                found.append(f"{name}: {function.name} ({', '.join(missing)})")
    assert found == []
