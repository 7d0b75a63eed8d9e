"""Records that a user's script writes, unchanged and undisturbed."""

import ast
import json
import re
import resource
import sys
from pathlib import Path

import pytest

from tests.support.inside import IMPORTING, INSIDE, Scripts
from tests.support.stub_torch import write_stub_torch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

TRAINING = """
import torch
optimizer = torch.optim.SGD([torch.Tensor(3), torch.Tensor(4)], lr=0.1)
for _ in range(2):
    assert optimizer.step() == "stepped"
"""
PRINTS_MODULES = """
import json, os, sys
hidden = sys.modules.get("sitecustomize")
print(json.dumps([getattr(hidden, "__file__", None), "torch" in sys.modules, sys.path,
                  os.environ["PYTHONPATH"]]))
"""
NESTED = """
import torch
class Mine(torch.optim.SGD):
    def step(self):
        return super().step()
torch.optim.SGD([torch.Tensor(1)], lr=0.1)
optimizer = Mine([torch.Tensor(1)], lr=0.1)
optimizer.step()
optimizer.step()
"""


def test_each_step_is_recorded_with_its_facts(scripts: Scripts) -> None:
    ran = scripts.run(TRAINING, RANK="1", WORLD_SIZE="4")
    (torch,) = ran.records("torch")
    assert torch == {
        "kind": "torch",
        "torch": "2.14.1+cu130",
        "python": sys.version.split()[0],
        "limit": None,
    }
    steps = ran.records("step")
    assert [each["step"] for each in steps] == [1, 2]
    assert steps[0]["time"] < steps[1]["time"]
    facts = {
        "optimizer": "SGD",
        "rates": [0.1],
        "parameters": 7,
        "device": "cpu",
        "rank": 1,
        "world": 4,
        "reserved": None,
        "retries": 0,
        "ooms": 0,
        "benchmark": True,
    }
    assert {name: steps[1][name] for name in facts} == facts
    assert steps[1]["allocated"] >= steps[1]["held"] >= 0
    assert steps[1]["unused"] >= 0


def test_the_memory_of_a_script_is_measured_above_pytorch(scripts: Scripts) -> None:
    uses = "memory = bytearray(32 << 20)\nmemory[:] = bytes(32 << 20)\noptimizer.step()\n"
    step = scripts.run(TRAINING + uses).records("step")[-1]
    assert 63 << 20 <= step["allocated"] < 66 << 20  # the bytes were there twice
    assert 31 << 20 <= step["held"] < 34 << 20


def test_memory_that_is_mapped_and_not_used_is_unused(scripts: Scripts) -> None:
    maps = "import ctypes, torch\nctypes.CDLL(None).malloc(64 << 20)\n"
    (step, _) = scripts.run(maps + TRAINING).records("step")
    stacks = 2 * resource.getrlimit(resource.RLIMIT_STACK)[0]  # of threads that are not there yet
    assert 63 << 20 <= step["unused"] + stacks < 66 << 20
    assert step["allocated"] < 4 << 20


def test_the_end_has_the_memory_of_the_last_step(scripts: Scripts) -> None:
    ran = scripts.run(TRAINING + "memory = bytes(range(256)) * (1 << 17)\n")
    (end,) = ran.records("end")
    last = ran.records("step")[-1]
    assert set(end) == set(last) - {"step", "optimizer", "rates", "parameters"}
    assert end["held"] - last["held"] > 31 << 20


def test_a_process_that_does_not_step_writes_no_end(scripts: Scripts) -> None:
    ran = scripts.run("import torch")
    assert [[each["kind"] for each in file] for file in ran.files] == [["torch"]]


def test_a_program_without_pytorch_writes_nothing_and_loads_none(scripts: Scripts) -> None:
    ran = scripts.run(PRINTS_MODULES)
    _, has_torch, path, variable = ran.told
    assert (has_torch, ran.files) == (False, [])
    assert str(INSIDE) not in path
    assert variable.split(":")[0] == str(INSIDE)


def test_the_hidden_sitecustomize_runs_in_its_place(scripts: Scripts) -> None:
    hidden = scripts.site / "sitecustomize.py"
    hidden.write_text("import sys; print('hidden', sys.modules[__name__].__file__)", "utf-8")
    ran = scripts.run(PRINTS_MODULES)
    assert ran.told[0] == str(hidden)
    assert ran.done.stdout.splitlines()[0] == f"hidden {hidden}"
    assert ran.done.stderr == ""


def test_a_finder_that_asks_no_other_finder_hides_nothing(scripts: Scripts) -> None:
    text = """
import sys
from importlib.machinery import PathFinder
sys.meta_path.insert(0, PathFinder)
"""
    (scripts.site / "sitecustomize.py").write_text(text, "utf-8")
    assert len(scripts.run(TRAINING).records("step")) == 2


def test_without_a_hidden_sitecustomize_there_is_none(scripts: Scripts) -> None:
    # The environment of the tests may have one of its own.
    alone = scripts.run(PRINTS_MODULES, PYTHONPATH=f"{scripts.site}").told[0]
    ran = scripts.run(PRINTS_MODULES)
    assert (ran.told[0], ran.done.stderr) == (alone, "")


def test_a_hidden_sitecustomize_that_fails_is_reported_as_without_ours(scripts: Scripts) -> None:
    (scripts.site / "sitecustomize.py").write_text("raise ValueError('theirs')", "utf-8")
    alone = scripts.run("", PYTHONPATH=f"{scripts.site}").done
    ran = scripts.run(TRAINING)
    assert (ran.done.returncode, ran.done.stderr) == (0, alone.stderr)
    assert "theirs" in alone.stderr
    assert len(ran.files) == 1


def test_without_its_variable_nothing_is_recorded(scripts: Scripts) -> None:
    text = "import os; del os.environ['BSPROBE_RECORDS']\n"
    text += "import subprocess, sys; subprocess.run([sys.executable, 'train.py'], check=True)"
    (scripts.folder / "train.py").write_text(TRAINING, "utf-8")
    ran = scripts.run(text)
    assert (ran.done.returncode, ran.done.stderr, ran.files) == (0, "", [])


def test_an_isolated_python_leaves_no_trace(scripts: Scripts) -> None:
    text = f"import sys; sys.path.insert(0, {str(scripts.site)!r})" + TRAINING
    ran = scripts.run(text, "-I")
    assert (ran.done.returncode, ran.done.stderr, ran.files) == (0, "", [])


@pytest.mark.parametrize("broken", ["missing", "a file", "no number"])
def test_what_is_broken_outside_does_not_disturb_a_script(broken: str, scripts: Scripts) -> None:
    environment = {"BSPROBE_RECORDS": str(scripts.folder / "missing")}
    if broken == "a file":
        (scripts.folder / "missing").touch()
    elif broken == "no number":
        environment = {"BSPROBE_LIMIT": "many"}
    ran = scripts.run(TRAINING, **environment)
    assert (ran.done.returncode, ran.done.stderr) == (0, "")
    assert ran.files == []


def test_an_optimizer_that_cannot_be_described_does_not_disturb_a_script(scripts: Scripts) -> None:
    ran = scripts.run(TRAINING.replace("torch.Tensor(4)", "'no tensor'"))
    assert (ran.done.returncode, ran.done.stderr) == (0, "")


def test_an_import_of_pytorch_that_fails_is_awaited_again(scripts: Scripts) -> None:
    fails = "import os\nos.environ['STUB_FAILS'] = '1'\n"
    fails += "try:\n    import torch\nexcept ImportError:\n    del os.environ['STUB_FAILS']\n"
    assert len(scripts.run(fails + TRAINING).records("step")) == 2


def test_nothing_of_the_wait_for_pytorch_stays(scripts: Scripts) -> None:
    text = """
import importlib.util, json, sys
found = importlib.util.find_spec("torch")
import torch
torch.optim.SGD([torch.Tensor(1)], lr=0.1)
base = torch.optim.Optimizer
print(json.dumps([
    torch.__spec__.loader is torch.__loader__,
    [type(loader).__name__ for loader in (found.loader, torch.__loader__)],
    sorted(vars(torch.__loader__)),
    [each for each in sys.meta_path if "bsprobe" in type(each).__module__],
    base.__init__.__code__.co_filename == sys.modules[base.__module__].__file__,
]))
"""
    loaders = ["SourceFileLoader"] * 2
    ran = scripts.run(text, BSPROBE_LIMIT=str(1 << 30), BSPROBE_LIMIT_KIND="cpu")
    assert ran.told == [True, loaders, ["name", "path"], [], True]


@pytest.mark.parametrize("version", ["2.14.1", "1.13.1"])
def test_a_step_within_a_step_of_the_same_optimizer_counts_once(
    version: str, scripts: Scripts
) -> None:
    write_stub_torch(scripts.site, version=version, hooks=version.startswith("2"))
    steps = scripts.run(NESTED).records("step")
    assert [(each["step"], each["optimizer"]) for each in steps] == [(1, "Mine"), (2, "Mine")]


def test_steps_are_counted_by_optimizer(scripts: Scripts) -> None:
    text = "other = torch.optim.SGD([torch.Tensor(1)], lr=0.2)\nother.step()\n"
    steps = scripts.run(TRAINING + text).records("step")
    assert [each["step"] for each in steps] == [1, 2, 2]
    assert [each["parameters"] for each in steps] == [7, 7, 1]


def test_an_old_pytorch_without_hooks_is_recorded_too(scripts: Scripts) -> None:
    write_stub_torch(scripts.site, version="1.10.2", hooks=False)
    # torch.compile of 2.2 takes away a wrapper that names what it wraps.
    text = "import inspect\nassert not hasattr(torch.optim.SGD.step, '__wrapped__')\n"
    text += "assert list(inspect.signature(torch.optim.SGD.step).parameters) == ['self']\n"
    steps = scripts.run(TRAINING + TRAINING + text).records("step")
    assert [each["step"] for each in steps] == [1, 2, 2, 2]


def test_a_process_that_steps_has_a_file_of_its_own(scripts: Scripts) -> None:
    text = """
import os
for steps in (True, False):
    if os.fork() == 0:
        if steps:
            optimizer.step()
        os._exit(0)
    os.wait()
optimizer.step()
"""
    ran = scripts.run(TRAINING + text)
    kinds = [[(each["kind"], each.get("step")) for each in file] for file in ran.files]
    ours = [("torch", None), ("step", 1), ("step", 2), ("step", 3), ("end", None)]
    assert sorted(kinds, key=len) == [[("torch", None), ("step", 1)], ours]
    names = sorted(path.name for path in scripts.out.iterdir())
    assert all(re.fullmatch(r"\d+-\d+\.jsonl", name) for name in names)


@pytest.mark.parametrize("is_imported_by_main", [True, False])
def test_a_spawned_child_writes_only_if_it_steps(
    is_imported_by_main: bool,  # noqa: FBT001 - a parameter of the test
    scripts: Scripts,
) -> None:
    text = "import torch\n" if is_imported_by_main else ""
    text += """
import multiprocessing
def load():
    import torch
def train():
    import torch
    torch.optim.SGD([torch.Tensor(1)], lr=0.1).step()
if __name__ == "__main__":
    for work in (load, train):
        child = multiprocessing.get_context("spawn").Process(target=work)
        child.start()
        child.join()
"""
    ran = scripts.run(text)
    assert ran.done.returncode == 0, ran.done.stderr
    main = [["torch"]] if is_imported_by_main else []
    kinds = [[each["kind"] for each in file] for file in ran.files]
    assert sorted(kinds, key=len) == [*main, ["torch", "step", "end"]]


@pytest.mark.parametrize("path", sorted(INSIDE.iterdir()), ids=lambda path: path.name)
def test_the_source_needs_python_3_8_and_the_standard_library_alone(path: Path) -> None:
    if path.suffix != ".py":
        pytest.skip("no source")
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {each.name.split(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    ours = {each.stem for each in INSIDE.glob("*.py")}
    assert names - set(sys.stdlib_module_names) - ours == set()
    assert path.stem == "sitecustomize" or path.stem.startswith("_bsprobe_")


def test_the_import_of_pytorch_is_recorded_when_it_begins(scripts: Scripts) -> None:
    """It may take longer than `--seconds`, and is then no program without PyTorch."""
    (scripts.site / "torch" / "__init__.py").write_text("raise SystemExit(3)")
    assert scripts.run("import torch").done.returncode == 3
    (file,) = scripts.out.iterdir()
    assert [json.loads(line) for line in file.read_text().splitlines()] == [IMPORTING]
