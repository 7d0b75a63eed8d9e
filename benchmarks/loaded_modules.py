"""List the bsprobe modules that a small predicted run loads, in the parent and in its worker.

    PYTHONPATH=. python benchmarks/loaded_modules.py [--names]

Packages do not count. The counts show how much of bsprobe takes part in one prediction; `--names`
also prints the modules.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.checkout import python_path, run_bsprobe

_SITECUSTOMIZE: Final = """
import os, sys

class Log:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "bsprobe":
            program = sys.orig_argv[2] if sys.orig_argv[1:2] == ["-m"] else "other"
            with open(os.path.join(os.environ["LOADED"], program), "a") as file:
                file.write(name + "\\n")

sys.meta_path.insert(0, Log())
"""
"""Logs each imported bsprobe module to a file named after the program that imports it."""
_RUN: Final = ("run", "--gpu", "RTX 3090", "--model", "deeplabv2-mini", "--resolution", "64x128")
_LISTS: Final = ("--precision", "fp32", "--norm", "batch", "--max-batch", "4", "--out", "out")


def loaded() -> dict[str, set[str]]:
    """Return the modules that each program of the run loads, by the program's name."""
    with tempfile.TemporaryDirectory() as folder:
        site, log = Path(folder) / "site", Path(folder) / "log"
        site.mkdir()
        log.mkdir()
        (site / "sitecustomize.py").write_text(_SITECUSTOMIZE, encoding="utf-8")
        run_bsprobe(
            *(*_RUN, *_LISTS),
            folder=folder,
            PYTHONPATH=f"{site}{os.pathsep}{python_path()}",
            LOADED=str(log),
            BSPROBE_SPAWN="1",  # a forked worker starts with the server's modules
            XDG_CACHE_HOME=folder,
        )
        found = {path.name: set(path.read_text().split()) for path in sorted(log.iterdir())}
    parents = {name.rpartition(".")[0] for modules in found.values() for name in modules}
    return {program: modules - parents for program, modules in found.items()}


def main() -> None:
    """Print how many modules each program loads, and how many in total."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--names", action="store_true", help="also print the modules")
    names = parser.parse_args().names
    found = loaded()
    for program, modules in found.items():
        print(f"{program}: {len(modules)} modules")
        if names:
            print("\n".join(f"  {name}" for name in sorted(modules)))
    print(f"together: {len(set().union(*found.values()))}")


if __name__ == "__main__":
    main()
