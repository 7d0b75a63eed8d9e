"""Tests of the file of a finished run."""

import errno
import json
import os
from pathlib import Path

import pytest

from bsprobe.records.errors import FileError
from bsprobe.records.runs import Run
from bsprobe.storage.codec import to_json
from bsprobe.storage.journal import Journal
from bsprobe.storage.runfile import NAME, load_run, save_run
from tests.support.builders import header, populated_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return populated_run(tmp_path_factory.mktemp("run"))


def test_a_saved_run_is_loaded_from_its_file_and_from_its_folder(tmp_path: Path, run: Run) -> None:
    path = save_run(run, tmp_path)
    assert path == tmp_path / "run.json"
    assert load_run(path) == run
    assert load_run(tmp_path) == run


def test_saving_again_replaces_the_run(tmp_path: Path, run: Run) -> None:
    (tmp_path / NAME).write_text("old", encoding="utf-8")
    save_run(run, tmp_path)
    assert load_run(tmp_path) == run
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_an_older_run_without_fields_of_missing_gradients_is_loaded(
    tmp_path: Path, run: Run
) -> None:
    path = save_run(run, tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line for line in lines if "without_gradient" not in line))
    assert len(path.read_text().splitlines()) < len(lines)
    assert load_run(path) == run


def test_a_full_disk_keeps_the_old_run(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / NAME).write_text("old", encoding="utf-8")

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FileError, match="No space left on device"):
        save_run(run, tmp_path)
    assert (tmp_path / NAME).read_text(encoding="utf-8") == "old"


def test_an_unfinished_run_is_refused_with_the_command_to_finish_it(tmp_path: Path) -> None:
    Journal.create(tmp_path, header()).__exit__(None, None, None)
    with pytest.raises(FileError, match="is not finished") as refused:
        load_run(tmp_path)
    assert str(tmp_path) in str(refused.value)
    assert f"bsprobe run --resume --out {tmp_path}" in str(refused.value.hint)


def test_a_folder_without_a_run_is_refused_with_the_runs_in_its_folders(
    tmp_path: Path, run: Run
) -> None:
    with pytest.raises(FileError, match=r"no run\.json") as refused:
        load_run(tmp_path)
    assert str(tmp_path) in str(refused.value)
    assert refused.value.hint == "is this the folder of a run?"
    (tmp_path / "one").mkdir()
    save_run(run, tmp_path / "one")
    with pytest.raises(FileError) as refused:
        load_run(tmp_path)
    assert f"{tmp_path}/*/run.json" in str(refused.value.hint)


@pytest.mark.parametrize("name", ["absent", "run.json"])
def test_a_missing_run_is_a_file_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError, match="does not exist"):
        load_run(tmp_path / name)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is damaged: it is not JSON: Expecting value at character 1"),
        (b"\x80\x81", "is damaged: it is not JSON"),
        (b"[" * 100_000, "is damaged: it is not JSON"),
        (b"[]", "has schema version None; this bsprobe reads 1"),
        (b'{"schema_version": 1, "trainings": []}', "is not the file of a run"),
        (b'{"name": "someone else"}', "is not the file of a run"),
        (b'{"schema_version": 2}', "has schema version 2; this bsprobe reads 1"),
        (b'{"schema_version": 1}', "is damaged: $: field 'device' is missing"),
    ],
    ids=lambda value: repr(value[:25]),
)
def test_a_file_that_is_not_a_run_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / NAME
    path.write_bytes(data)
    with pytest.raises(FileError) as refused:
        load_run(path)
    assert str(refused.value) == f"{path} {words}"
    assert refused.value.hint is not None


def test_an_older_record_without_later_fields_takes_their_defaults(
    tmp_path: Path, run: Run
) -> None:
    body = to_json(run)
    for result in body["results"]:
        del result["boundary"]["detail"]
    path = tmp_path / NAME
    path.write_text(json.dumps(body), encoding="utf-8")
    assert {result.boundary.detail for result in load_run(path).results} == {""}


@pytest.mark.parametrize("field", ["max_batch", "trial_timeout_seconds"])
def test_a_required_field_is_not_replaced_by_a_default(
    field: str, tmp_path: Path, run: Run
) -> None:
    body = to_json(run)
    del body["settings"][field]
    path = tmp_path / NAME
    path.write_text(json.dumps(body), encoding="utf-8")
    with pytest.raises(FileError, match=f"field '{field}' is missing"):
        load_run(path)
