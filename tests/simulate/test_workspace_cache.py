"""The disk cache of cuDNN's workspaces: reading, sharing between processes, damaged files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bsprobe.simulate.cudnn import cache as workspace_cache
from bsprobe.simulate.cudnn.cache import WorkspaceCache
from bsprobe.storage.files import cache_folder, partial_name

CARD = {"deviceVer": 860}


def opened(path: Path) -> WorkspaceCache:
    return WorkspaceCache(path, described=CARD)


def kept(path: Path, answers: dict[str, tuple[int, ...]]) -> WorkspaceCache:
    """A cache after it has saved answers."""
    cache = opened(path)
    for question, answer in answers.items():
        cache.add(question, answer)
    cache.save()
    return cache


def test_answers_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "cache.json"
    cache = opened(path)
    assert cache.find("a") is None
    cache.add("a", (3, 0, 2**40))
    cache.add("b", ())
    assert cache.find("a") == (3, 0, 2**40)
    assert not path.exists()
    cache.save()
    again = opened(path)
    assert (again.find("a"), again.find("b"), again.find("c")) == ((3, 0, 2**40), (), None)
    assert (cache.notes, again.notes) == ((), ())
    assert list(path.parent.iterdir()) == [path]


def test_nothing_new_writes_nothing(tmp_path: Path) -> None:
    kept(tmp_path / "cache.json", {})
    assert list(tmp_path.iterdir()) == []


def test_two_caches_that_save_one_after_the_other_keep_both_answers(tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    one, other = (opened(path) for _ in range(2))
    one.add("a", (1,))
    other.add("b", (2,))
    one.save()
    other.save()
    again = opened(path)
    assert (again.find("a"), again.find("b")) == ((1,), (2,))


def test_processes_that_save_at_once_leave_a_valid_file(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from bsprobe.simulate.cudnn.cache import WorkspaceCache
for number in range(40):
    cache = WorkspaceCache(Path(sys.argv[1]), described={})
    cache.add(f"{sys.argv[2]} {number}", tuple(range(300)))
    cache.save()
    assert cache.notes == (), cache.notes
"""
    path = tmp_path / "cache.json"
    writers = [
        subprocess.Popen([sys.executable, "-c", script, path, str(each)], cwd=Path.cwd())
        for each in range(3)
    ]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    assert list(tmp_path.iterdir()) == [path]
    assert WorkspaceCache(path, described={}).notes == ()


WHOLE = '{"schema_version": 2, "described": {"deviceVer": 860}, "answers": %s}'


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\xff\xfe{", b"null", b"[]", b"{}", b"[" * 100_000),
        *((WHOLE % each).encode() for each in ("[1]", '{"a": [-1]}', '{"a": [1.5]}', '{"a": 1}')),
    ],
)
def test_a_damaged_file_is_rebuilt_with_a_note(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cache.json"
    path.write_bytes(content)
    cache = opened(path)
    assert cache.find("a") is None
    (note,) = cache.notes
    assert f"{path} is damaged" in note
    cache.add("a", (7,))
    cache.save()
    again = opened(path)
    assert (again.find("a"), again.notes) == ((7,), ())


def test_answers_about_another_card_are_not_used(tmp_path: Path) -> None:
    kept(tmp_path / "cache.json", {"a": (1,)})
    other = WorkspaceCache(tmp_path / "cache.json", described={"deviceVer": 900})
    assert (other.find("a"), other.notes) == (None, ())


def test_a_folder_that_cannot_be_written_is_one_note(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    cache = kept(tmp_path / "a file" / "cache.json", {"0": (0,)})
    cache.add("1", (1,))
    cache.save()
    assert cache.find("1") == (1,)
    assert len([note for note in cache.notes if "not cached for the next run" in note]) == 1


def test_the_file_keeps_the_newest_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace_cache, "MOST_ANSWERS", 3)
    path = tmp_path / "cache.json"
    for number in range(5):
        kept(path, {str(number): (number,)})
    assert list(json.loads(path.read_bytes())["answers"]) == ["2", "3", "4"]


def test_the_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path("/home/ada/.cache/bsprobe")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path("/home/ada/.cache/bsprobe")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/ada")
    assert cache_folder() == Path("/var/cache/ada/bsprobe")


@pytest.mark.skipif(sys.platform == "win32", reason="processes are not checked there")
def test_what_killed_processes_left_of_other_files_is_removed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as killed:
        killed.wait()
    (tmp_path / partial_name("other.json", killed.pid)).write_bytes(b"half")
    kept(tmp_path / "cache.json", {"a": (1,)})
    assert [path.name for path in tmp_path.iterdir()] == ["cache.json"]
