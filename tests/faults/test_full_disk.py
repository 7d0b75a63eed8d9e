"""A really full disk: a small file system in memory, in a namespace of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import ROOT, assert_no_trial_was_repeated, python_path
from tests.support.stubbed_bsprobe import RUN, findings

STUB = Path(__file__).parents[1] / "support" / "stubbed_bsprobe.py"
IN_A_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-ec")
CAN_MOUNT = (
    shutil.which("unshare") is not None
    and subprocess.run(
        [*IN_A_NAMESPACE, "mount -t tmpfs none /mnt"], capture_output=True, check=False
    ).returncode
    == 0
)
SCRIPT = """
mount -t tmpfs -o size=1m none disk
cd disk
bsprobe() { if "$PYTHON" "$STUB" arithmetic "$@"; then :; else echo "code $?" >&2; fi; }
fill() {
    dd if=/dev/zero of=filler bs=4096 2>/dev/null || :
    truncate -s -$(( 4096 * $1 )) filler
}
"""
"""`fill N` fills the disk but for N pages of 4096 bytes."""

pytestmark = pytest.mark.skipif(not CAN_MOUNT, reason="this machine does not let us mount")


def on_a_small_disk(folder: Path, script: str) -> "subprocess.CompletedProcess[str]":
    """Run a script on a small disk that is gone at its end."""
    (folder / "disk").mkdir()
    environment = {"PYTHONPATH": python_path(), "PYTHON": sys.executable, "STUB": str(STUB)}
    done = subprocess.run(
        [*IN_A_NAMESPACE, SCRIPT + script],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def complain_clearly(lines: list[str]) -> None:
    error, hint, code = lines
    assert error.startswith("error: out/")
    assert error.endswith("No space left on device")
    assert hint.startswith("hint: check the disk space")
    assert code == "code 2"


@pytest.mark.parametrize(
    "pages", [3, *(pytest.param(each, marks=pytest.mark.nightly) for each in (0, 1, 2, 6, 8))]
)
def test_a_run_on_a_full_disk_is_resumed_once_there_is_room(
    tmp_path: Path, reference: Path, pages: int
) -> None:
    done = on_a_small_disk(
        tmp_path,
        f"""
        fill {pages}
        bsprobe {" ".join(RUN)}
        cp out/journal.jsonl ../kept.jsonl 2>/dev/null || :
        rm filler
        if head -n 1 ../kept.jsonl | grep -q '}}$'
            then bsprobe {" ".join(RUN)} --resume
            else rm -rf out; bsprobe {" ".join(RUN)}
        fi
        cp -r out ..
        """,
    )
    lines = done.stderr.splitlines()
    complain_clearly(lines[lines.index("code 2") - 2 : lines.index("code 2") + 1])
    assert lines.count("code 2") == 1
    kept = tmp_path / "kept.jsonl"
    if kept.exists():
        whole = [line for line in kept.read_bytes().splitlines(keepends=True) if b"\n" in line]
        now = (tmp_path / "out" / "journal.jsonl").read_bytes().splitlines(keepends=True)
        assert now[: len(whole)] == whole
    assert findings(tmp_path / "out") == findings(reference)
    assert_no_trial_was_repeated(tmp_path / "out")


def test_a_full_disk_does_not_keep_the_table_from_being_printed(
    tmp_path: Path, reference: Path
) -> None:
    pages = -(-(reference / "journal.jsonl").stat().st_size // 4096)
    done = on_a_small_disk(tmp_path, f"fill {pages + 1}\nbsprobe {' '.join(RUN)}\n")
    lines = done.stderr.splitlines()
    complain_clearly(lines[-3:])
    assert "run.json" in lines[-3]
    assert "images/s" in done.stdout


def test_a_report_on_a_full_disk_prints_the_table_and_keeps_the_older_files(
    tmp_path: Path,
) -> None:
    run = ROOT / "reports" / "cpu-300mib-train.py"
    done = on_a_small_disk(
        tmp_path, f"cp -r {run} out\nfill 3\n[ -e out/run.json ]\nbsprobe report out\ncp -r out .."
    )
    complain_clearly(done.stderr.splitlines()[-3:])
    assert "largest" in done.stdout
    for path in run.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert not list((tmp_path / "out").glob(".*"))
