"""Scripts that run with the folder of the records first on `PYTHONPATH`."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.commands import ROOT, run
from tests.support.stub_torch import write_stub_torch

INSIDE = ROOT / "bsprobe" / "worker" / "script" / "inside"


IMPORTING = {"kind": "importing"}


@dataclass(frozen=True)
class Ran:
    """A script that has ended."""

    done: "subprocess.CompletedProcess[str]"
    files: list[list[dict[str, Any]]]
    """The records of each process, without that of the beginning import, by their first times."""

    @property
    def told(self) -> Any:
        """The JSON that the script printed last."""
        assert self.done.returncode == 0, self.done.stderr
        return json.loads(self.done.stdout.splitlines()[-1])

    def records(self, kind: str) -> list[dict[str, Any]]:
        """Return the records of a kind, of the only process that wrote some."""
        assert (self.done.returncode, self.done.stderr) == (0, "")
        (file,) = self.files
        return [each for each in file if each["kind"] == kind]


class Scripts:
    """Runs scripts in a folder with a stub of PyTorch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "records"
        self.out.mkdir()
        self.site = folder / "site"
        self.site.mkdir()
        write_stub_torch(self.site)

    def run(self, text: str, *options: str, **environment: str) -> Ran:
        """Run a script; the stub is found after the folder of the records."""
        variables = {
            "PYTHONPATH": f"{INSIDE}:{self.site}",
            "BSPROBE_RECORDS": str(self.out),
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        }
        (self.folder / "script.py").write_text(text, encoding="utf-8")
        words = (sys.executable, *options, "script.py")
        return Ran(run(*words, cwd=self.folder, timeout=60, **variables), self._read())

    def _read(self) -> list[list[dict[str, Any]]]:
        if not self.out.is_dir():
            return []
        texts = [path.read_text(encoding="utf-8") for path in self.out.iterdir()]
        lines = [[json.loads(line) for line in text.splitlines()] for text in texts]
        files = [[each for each in file if each != IMPORTING] for file in lines]
        files = [file for file in files if file]
        return sorted(files, key=lambda file: min(each.get("time", 0.0) for each in file))
