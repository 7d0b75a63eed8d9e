"""Tests of the journal of a run."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from bsprobe.records.errors import FileError
from bsprobe.records.trials import Trial
from bsprobe.storage.journal import NAME, Contents, Journal, read_journal
from tests.support.builders import broke, header, ran

TRIALS = (ran(1), ran(2, accumulation_steps=5), broke(4))


def written(folder: Path, *trials: Trial) -> bytes:
    with Journal.create(folder, header()) as journal:
        for trial in trials:
            journal.append(trial)
    return (folder / NAME).read_bytes()


def resumed(folder: Path) -> tuple[Journal, Contents]:
    found = Journal.resume(folder)
    assert found is not None
    return found


def complaint(folder: Path) -> FileError:
    with pytest.raises(FileError) as refused:
        read_journal(folder)
    assert str(refused.value).startswith(str(folder / NAME))
    assert refused.value.hint is not None
    return refused.value


def test_appended_trials_are_read_back(tmp_path: Path) -> None:
    data = written(tmp_path, *TRIALS)
    assert data.count(b"\n") == 1 + len(TRIALS)
    assert read_journal(tmp_path) == Contents(
        header=header(), trials=TRIALS, complete_bytes=len(data)
    )


def test_a_trial_is_on_the_disk_before_append_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append((tmp_path / NAME).read_bytes()))
    with Journal.create(tmp_path, header()) as journal:
        assert [data.count(b"\n") for data in synced] == [1]
        journal.append(TRIALS[0])
        assert [data.count(b"\n") for data in synced] == [1, 2]
        assert read_journal(tmp_path).trials == TRIALS[:1]


def test_a_resumed_journal_keeps_its_trials(tmp_path: Path) -> None:
    written(tmp_path, *TRIALS[:2])
    journal, contents = resumed(tmp_path)
    assert contents.trials == TRIALS[:2]
    with journal:
        journal.append(TRIALS[2])
    assert read_journal(tmp_path).trials == TRIALS


def test_a_last_line_truncated_at_any_byte_is_ignored(tmp_path: Path) -> None:
    whole = written(tmp_path, *TRIALS)
    start = whole.rindex(b"\n", 0, -1) + 1
    kept = Contents(header=header(), trials=TRIALS[:2], complete_bytes=start)
    for length in range(start, len(whole)):
        (tmp_path / NAME).write_bytes(whole[:length])
        assert read_journal(tmp_path) == kept


@pytest.mark.parametrize("lost", [0, 1, 2, 100, 10**6])
def test_a_truncated_line_is_overwritten(tmp_path: Path, lost: int) -> None:
    whole = written(tmp_path, *TRIALS)
    start = whole.rindex(b"\n", 0, -1) + 1
    (tmp_path / NAME).write_bytes(whole[: max(start, len(whole) - lost)])
    journal, contents = resumed(tmp_path)
    with journal:
        for trial in TRIALS[len(contents.trials) :]:
            journal.append(trial)
    assert (tmp_path / NAME).read_bytes() == whole


def test_a_journal_with_a_truncated_header_is_refused_and_removed_on_resume(
    tmp_path: Path,
) -> None:
    whole = written(tmp_path)
    for length in range(len(whole)):
        (tmp_path / NAME).write_bytes(whole[:length])
        assert "no complete header" in str(complaint(tmp_path))
        assert Journal.resume(tmp_path) is None
        assert not (tmp_path / NAME).exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes with a path")
def test_a_pipe_in_the_place_of_a_journal_is_refused_without_reading_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / NAME)
    for use in (read_journal, Journal.resume, partial(Journal.create, header=header())):
        with pytest.raises(FileError, match="is not a regular file"):
            use(tmp_path)


def test_a_journal_with_only_a_header_can_be_resumed(tmp_path: Path) -> None:
    assert Journal.resume(tmp_path) is None
    whole = written(tmp_path)
    (tmp_path / NAME).write_bytes(whole + b'{"spec"')
    journal, contents = resumed(tmp_path)
    journal.__exit__(None, None, None)
    assert contents == Contents(header=header(), trials=(), complete_bytes=len(whole))
    assert (tmp_path / NAME).read_bytes() == whole


def test_a_damaged_journal_is_refused_and_left_unchanged(tmp_path: Path) -> None:
    data = written(tmp_path, *TRIALS).replace(b"fits", b"fats")
    (tmp_path / NAME).write_bytes(data)
    with pytest.raises(FileError, match=r"'fats' .*Outcome"):
        Journal.resume(tmp_path)
    assert (tmp_path / NAME).read_bytes() == data


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "line 2: it is not JSON"),
        (b"", "line 2: it is not JSON"),
        (b"\x00" * 50, "line 2: it is not JSON"),
        (b"\xff\xfe", "line 2: it is not JSON"),
        (b"[" * 100_000, "line 2: it is not JSON"),
        (b"[]", "line 2: expected an object"),
        (b"{}", "line 2: field 'failure'"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_damaged_line_in_the_middle_is_refused_with_its_number(
    tmp_path: Path, line: bytes, words: str
) -> None:
    lines = written(tmp_path, *TRIALS).split(b"\n")
    lines[1] = line
    (tmp_path / NAME).write_bytes(b"\n".join(lines))
    assert words in str(complaint(tmp_path))


def test_a_damaged_field_is_refused_by_line_and_place(tmp_path: Path) -> None:
    lines = written(tmp_path, *TRIALS).split(b"\n")
    trial = json.loads(lines[2])
    trial["spec"]["batch_size"] = "two"
    lines[2] = json.dumps(trial).encode()
    (tmp_path / NAME).write_bytes(b"\n".join(lines))
    assert str(complaint(tmp_path)).endswith(
        "is damaged: line 3.spec.batch_size: expected int, found str"
    )


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_of_the_format_is_refused(
    tmp_path: Path, version: int | str | None
) -> None:
    first, rest = written(tmp_path, *TRIALS).split(b"\n", 1)
    changed = json.dumps({**json.loads(first), "schema_version": version}).encode()
    (tmp_path / NAME).write_bytes(changed + b"\n" + rest)
    error = complaint(tmp_path)
    assert f"has schema version {version!r}; this bsprobe reads 1" in str(error)


@pytest.mark.parametrize("line", [b"[]", b"null", b'"text"', b"{}"])
def test_a_first_line_without_a_header_is_refused(tmp_path: Path, line: bytes) -> None:
    (tmp_path / NAME).write_bytes(line + b"\n")
    assert "has schema version None" in str(complaint(tmp_path))


def test_a_header_with_a_field_too_many_is_refused(tmp_path: Path) -> None:
    value = {**json.loads(written(tmp_path)), "zzz": 1}
    (tmp_path / NAME).write_bytes(json.dumps(value).encode() + b"\n")
    assert "unknown field 'zzz'" in str(complaint(tmp_path))


def test_a_missing_journal_is_a_file_error(tmp_path: Path) -> None:
    assert "does not exist" in str(complaint(tmp_path))


def test_a_second_journal_in_a_folder_is_refused_and_the_first_kept(tmp_path: Path) -> None:
    whole = written(tmp_path, *TRIALS)
    with pytest.raises(FileError) as refused:
        Journal.create(tmp_path, header())
    assert "--resume" in str(refused.value.hint)
    assert "--out" in str(refused.value.hint)
    assert (tmp_path / NAME).read_bytes() == whole


def test_a_journal_that_is_being_written_cannot_be_opened_by_another_run(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with Journal.create(tmp_path, header()) as journal:
        journal.append(TRIALS[0])
        (tmp_path / NAME).open("ab").write(b"half a line")
        before = (tmp_path / NAME).read_bytes()
        with pytest.raises(FileError, match="another bsprobe command is writing"):
            Journal.resume(tmp_path)
        assert (tmp_path / NAME).read_bytes() == before
    journal, contents = resumed(tmp_path)
    journal.__exit__(None, None, None)
    assert contents.trials == TRIALS[:1]


@pytest.mark.parametrize("text", [b"my thesis, one line", b"{}", b'{"schema_version"; 1'])
def test_a_file_that_does_not_begin_as_a_journal_is_neither_shortened_nor_removed(
    tmp_path: Path, text: bytes
) -> None:
    (tmp_path / NAME).write_bytes(text)
    with pytest.raises(FileError, match="does not begin with a header"):
        Journal.resume(tmp_path)
    assert (tmp_path / NAME).read_bytes() == text


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Make writes beyond a size fail, as on a full disk.

    Use it for a few lines only, because pytest's output may be a longer file.
    """
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_a_file_error_and_earlier_trials_are_kept(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, header())
    journal.append(TRIALS[0])
    size = (tmp_path / NAME).stat().st_size
    # The disk is still full when the journal is closed; that must not hide the first error.
    with pytest.raises(FileError) as refused, files_end_at(size + 10), journal:
        journal.append(TRIALS[1])
    assert str(tmp_path / NAME) in str(refused.value)
    assert "File too large" in str(refused.value)
    assert read_journal(tmp_path).trials == TRIALS[:1]
