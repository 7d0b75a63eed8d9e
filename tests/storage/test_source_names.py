"""Tests of the lookup of callables in source text."""

import sys
from pathlib import Path

import pytest

from bsprobe.records.errors import UsageError
from bsprobe.records.workload import CALLABLE_HINT
from bsprobe.storage.source_names import callables_hint, require_arguments, require_callable

NETWORK = """
raise RuntimeError("this file must not be run")
import os.path
from torch import nn as layers, optim
WIDTH = 3
made = layers.Sequential
if WIDTH:
    def build(): ...
else:
    class Other: ...
try:
    from fast import Fast
except ImportError as error:
    Fast = None
with open(os.devnull) as file, (walrus := file):
    first, (second, *others) = 1, (2, 3)
class Net(layers.Module):
    inside = 1
    def forward(self): ...
async def fetch(): ...
def _hidden():
    global late
    late = build
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NETWORK)
    Path("own_package/inner").mkdir(parents=True)
    for place in ("own_package", "own_package/inner"):
        Path(place, "__init__.py").write_text("")
    Path("own_package/inner/net.py").write_text(NETWORK)
    Path("own_package/star.py").write_text("from somewhere import *\n")
    Path("own_package/lazy.py").write_text("def __getattr__(name): ...\n")
    Path("own_package/made.py").write_text("for n in 'ab':\n    globals()[n] = dict\n")
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        *["build", "Other", "Net", "Net.forward", "Net.anything", "layers", "optim.SGD", "os"],
        *["made", "Fast", "file", "walrus", "first", "second", "others", "fetch", "_hidden"],
        "late",
    ],
)
def test_every_name_that_a_file_binds_at_its_top_level_is_found(name: str) -> None:
    require_callable("--model", f"net.py:{name}")
    require_callable("--model", f"net:{name}")
    require_callable("--model", f"own_package.inner.net:{name}")


@pytest.mark.parametrize("file", ["a:b.py", 'ne"t """ x.py', "C:\\new\\x1.py", "a\nb.py"])
def test_a_file_may_have_any_name(file: str) -> None:
    Path(file).write_text(NETWORK)
    require_callable("--model", f"{file}:build")
    with pytest.raises(UsageError, match="has no 'buildd'"):
        require_callable("--model", f"{file}:buildd")
    with pytest.raises(UsageError) as refused:
        require_callable("--model", "a:b:build")
    assert refused.value.hint == CALLABLE_HINT


@pytest.mark.parametrize(
    "name",
    [
        "own_package.star:any",
        "own_package/lazy.py:any",
        "own_package.made:a",
        "math:sqrt",  # a compiled module without source text
        "sys:intern",
    ],
)
def test_a_name_that_the_text_does_not_decide_is_left_to_the_import(name: str) -> None:
    require_callable("--model", name)
    assert not any(module.startswith("own_package") for module in sys.modules)


@pytest.mark.parametrize(
    ("name", "complaint", "hint"),
    [
        ("net.py:buildd", "net.py has no 'buildd'", "did you mean net.py:build? "),
        ("net:Nett", "net has no 'Nett'", "did you mean net:Net? "),
        ("net.py:inside", "net.py has no 'inside'", "net.py has build, Other, Net, fetch"),
        ("net.py:WIDTH", "'WIDTH' is not a function", "net.py has build"),
        ("net.py:", "names no callable", "net.py has build"),
        ("nett.py:build", "nett.py does not exist", "did you mean net.py:build?"),
        ("nett:build", "no module named nett", "did you mean net:build?"),
        ("own_package.inner:f", "own_package.inner has no 'f'", "defines no function"),
        ("own_package.innr:f", "no module named own_package.innr", "package.module:callable"),
        (
            "own_package.inner.nett:f",
            "no module named own_package.inner.nett",
            "own_package.inner.net:f",
        ),
        ("net.py:bu ild", "'bu ild' is not a name of Python", "package.module:callable"),
        ("net.py:Net.", "'Net.' is not a name of Python", "package.module:callable"),
        ('net:x"""', "is not a name of Python", "package.module:callable"),
        ("net.py:class", "net.py has no 'class'", "net.py has build"),
        ("a-b:build", "'a-b' is not a module name", "package.module:callable"),
        ("no/net.py:build", "no/net.py does not exist", "package.module:callable"),
    ],
)
def test_a_missing_callable_is_refused_with_the_nearest(
    name: str, complaint: str, hint: str
) -> None:
    with pytest.raises(UsageError) as refused:
        require_callable("--loss", name)
    assert str(refused.value).startswith("--loss")
    assert complaint in str(refused.value)
    assert hint in str(refused.value.hint)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (b"def build(:\n", "bad.py, line 1: "),
        (b"x = 1\nreturn x\n", "bad.py, line 2: "),
        (b"x = '\xff'\n", "bad.py"),
        (b"x = 1\0\n", "bad.py"),
    ],
)
def test_a_file_with_a_syntax_error_is_named_with_the_line(text: bytes, place: str) -> None:
    Path("bad.py").write_bytes(text)
    for name in ("bad.py:build", "bad:build"):
        with pytest.raises(UsageError) as refused:
            require_callable("--model", name)
        assert str(refused.value).startswith(f"--model {name}: {place}")


def test_the_callables_of_a_file_are_listed() -> None:
    assert callables_hint("net.py") == "net.py has build, Other, Net, fetch"
    assert callables_hint("no.py") is None
    Path("empty.py").write_text("")
    assert "no function or class" in (callables_hint("empty.py") or "")


def test_a_file_with_an_invalid_escape_causes_no_warning(
    recwarn: pytest.WarningsRecorder,
) -> None:
    Path("odd.py").write_text("def build():\n    return '\\d'\n")
    require_callable("--model", "odd.py:build")
    assert list(recwarn) == []


FACTORIES = """
import functools
from torch import nn
def build(width=3, *, depth=1): ...
def any_of_them(**arguments): ...
@functools.cache
def cached(): ...
class Net(nn.Module):
    def __init__(self, classes, width=3): ...
class Inherits(Net): ...
"""


@pytest.mark.parametrize("name", ["build", "any_of_them", "cached", "Net", "Inherits"])
def test_arguments_that_may_be_taken_are_left_to_the_import(name: str) -> None:
    Path("net.py").write_text(FACTORIES)
    require_arguments(f"net.py:{name}", ["width"])


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("build", "did you mean width? it takes width, depth"),
        ("Net", "did you mean width? it takes classes, width"),
    ],
)
def test_an_unknown_argument_is_refused_with_the_nearest(name: str, hint: str) -> None:
    Path("net.py").write_text(FACTORIES)
    with pytest.raises(UsageError, match=f"--model-arg wdth: {name} of net.py") as refused:
        require_arguments(f"net.py:{name}", ["wdth"])
    assert refused.value.hint == hint
