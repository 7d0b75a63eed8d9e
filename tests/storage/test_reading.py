"""Files are read only if they are regular and of limited size: nothing hangs or fills the memory.

Each reader of a file that somebody else may have written is tried with each kind of place.
"""

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from bsprobe.records.errors import BsprobeError
from bsprobe.simulate.cudnn.cache import WorkspaceCache
from bsprobe.storage.batch_cache import Question, find_batch
from bsprobe.storage.codec import MalformedError, parse_json
from bsprobe.storage.explanationfile import load_explanation
from bsprobe.storage.files import MOST_BYTES, read_file
from bsprobe.storage.journal import Journal
from bsprobe.storage.runfile import load_run
from bsprobe.storage.source_names import read_names
from bsprobe.study.journal import StudyJournal
from bsprobe.study.learning.weights import load_weights
from bsprobe.study.studyfile import load_study
from bsprobe.training.cityscapes.samples import Problem, load_image
from bsprobe.training.models.elsewhere import _configuration
from tests.support.builders import settings

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes with a path")


def an_image(path: Path) -> NoReturn:
    found = load_image(path)
    assert isinstance(found, Problem)
    raise found.as_error()


def a_cached_batch(path: Path) -> NoReturn:
    asked = Question(
        device="cpu",
        capacity_bytes=1,
        torch="2.14.1",
        bsprobe="0.2.0",
        settings=settings(),
        sources=(),
    )
    path.rename(asked.path(path.parent))
    assert find_batch(path.parent, asked) is None
    raise BsprobeError("not a regular file; searched again", hint="none")


def cached_workspaces(path: Path) -> NoReturn:
    (note,) = WorkspaceCache(path, described={}).notes
    raise BsprobeError(note, hint="none")


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "run": ("run.json", load_run),
    "folder of a run": ("run.json", lambda path: load_run(path.parent)),
    "journal": ("journal.jsonl", lambda path: Journal.read(path.parent)),
    "journal to resume": ("journal.jsonl", lambda path: Journal.resume(path.parent)),
    "journal of a study": ("study-journal.jsonl", lambda path: StudyJournal.read(path.parent)),
    "study": ("study.json", lambda path: load_study(path.parent)),
    "explanation": ("explanation.json", load_explanation),
    "cached batch": ("batch.json", a_cached_batch),
    "cached workspaces": ("workspaces.json", cached_workspaces),
    "image": ("image.png", an_image),
    "configuration": ("config.json", lambda path: _configuration(str(path), {})),
    "Python file": ("net.py", lambda path: read_names("--model", "net.py:Net", path)),
}


def device(path: Path) -> None:
    """Make a device like /dev/zero, which never ends."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes devices")


def linked_pipe(path: Path) -> None:
    os.mkfifo(path.parent / "p")
    path.symlink_to("p")


PLACES: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "endless device": device,
    "link to a pipe": linked_pipe,
}


@pytest.mark.parametrize("make", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize(("name", "read"), READERS.values(), ids=READERS)
def test_what_is_not_a_regular_file_is_refused_and_not_opened(
    tmp_path: Path, name: str, read: Callable[[Path], object], make: Callable[[Path], object]
) -> None:
    make(tmp_path / name)
    with pytest.raises(BsprobeError, match="not a regular file") as refused:
        read(tmp_path / name)
    assert refused.value.hint is not None


@pytest.mark.parametrize("make", PLACES.values(), ids=PLACES)
def test_weights_in_a_pipe_or_a_device_are_refused(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    torch = pytest.importorskip("torch")
    make(tmp_path / "weights.pt")
    with pytest.raises(BsprobeError, match="not a regular file"):
        load_weights(torch.nn.Conv2d(3, 3, 1), tmp_path / "weights.pt", stated=None)


@pytest.mark.parametrize(
    ("name", "read"),
    [item for key, item in READERS.items() if key not in ("image", "cached batch")],
)
def test_a_file_that_is_too_large_is_refused_after_its_first_bytes(
    tmp_path: Path, name: str, read: Callable[[Path], object]
) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(1 << 40)  # takes no space
    with pytest.raises(BsprobeError, match="is larger than 64 MiB"):
        read(tmp_path / name)


def test_a_file_of_the_largest_size_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_file(path, most_bytes=5) == b"12345"
    with pytest.raises(BsprobeError, match="is larger than 4 B"):
        read_file(path, most_bytes=4)
    assert MOST_BYTES > 400 * 164_863  # the largest committed explanation


@pytest.mark.parametrize(
    "text", [b"[" + b"{}," * 1_000_000 + b"{}]", b"[" + b"0," * 2_000_000, b"[" * 2_000_001]
)
def test_json_of_millions_of_values_is_refused_before_it_is_parsed(
    text: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("it was parsed"))
    for each in (text, text.decode()):
        with pytest.raises(MalformedError, match="more than 2,000,000 values"):
            parse_json(each)


def test_json_of_a_million_values_is_read() -> None:
    values = [{"a": 1}] * 300_000
    assert parse_json(json.dumps(values)) == values
