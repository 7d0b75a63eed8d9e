"""The file of a finished run."""

import errno
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from builders import header, populated_run

from bsprobe.errors import FileError
from bsprobe.journal import Journal
from bsprobe.records import Run
from bsprobe.runfile import NAME, load_run, save_run
from bsprobe.serialization import to_json

JUNK: tuple[Any, ...] = (None, True, 0, -1, 10**400, 0.5, "", "zzz", [], {}, [[]], {"a": 1})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return populated_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, run: Run) -> bytes:
    return save_run(run, tmp_path_factory.mktemp("saved")).read_bytes()


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


def test_an_unfinished_run_says_how_to_finish_it(tmp_path: Path) -> None:
    Journal.create(tmp_path, header()).__exit__(None, None, None)
    with pytest.raises(FileError) as refused:
        load_run(tmp_path)
    assert str(refused.value) == f"the run in {tmp_path} is not finished"
    assert refused.value.hint == f"finish it: bsprobe run --resume --out {tmp_path}"


@pytest.mark.parametrize("name", ["", "absent", "run.json"])
def test_an_absent_run_is_a_clear_refusal(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError, match="does not exist"):
        load_run(tmp_path / name)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is damaged: it is not JSON"),
        (b"\x80\x81", "is damaged: it is not JSON"),
        (b"[" * 100_000, "is damaged: it is not JSON"),
        (b"[]", "has schema version None; this bsprobe reads 1"),
        (b'{"schema_version": 2}', "has schema version 2; this bsprobe reads 1"),
        (b'{"schema_version": 1}', "is damaged: $: field 'device' is missing"),
    ],
    ids=lambda value: repr(value[:25]),
)
def test_what_is_no_run_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / NAME
    path.write_bytes(data)
    with pytest.raises(FileError) as refused:
        load_run(path)
    assert str(refused.value) == f"{path} {words}"
    assert refused.value.hint is not None


def with_damaged_bytes(data: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(data)
    start = chance.randrange(len(data))
    length = chance.choice((1, 1, 1, 10, 1000))
    ways = (
        bytes(chance.randrange(256) for _ in range(length)),
        chance.choice((b"", b"0", b"9" * 5000, b'"', b"}", b"NaN", b"1e999", b"null")),
        data[chance.randrange(len(data)) :][:length],
    )
    damaged[start : start + length] = chance.choice(ways)
    return bytes(damaged)


def with_damaged_value(value: Any, chance: random.Random) -> Any:
    """A copy of a JSON value with something inside replaced, dropped or added."""
    if isinstance(value, dict) and value and chance.random() < 0.95:
        key = chance.choice(list(value))
        if chance.random() < 0.1:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: with_damaged_value(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.95:
        place = chance.randrange(len(value))
        return [*value[:place], with_damaged_value(value[place], chance), *value[place + 1 :]]
    return chance.choice(JUNK)


def says(loaded: Any, written: Any) -> bool:
    """Whether everything written was loaded as it stands; fields left out take their defaults."""
    if isinstance(written, dict):
        return all(says(loaded[key], item) for key, item in written.items())
    if isinstance(written, list):
        return all(says(*pair) for pair in zip(loaded, written, strict=True))
    return bool(loaded == written)


@pytest.mark.parametrize("seed", range(200))
def test_a_mutated_run_is_loaded_right_or_refused_clearly(
    tmp_path: Path, saved: bytes, seed: int
) -> None:
    chance = random.Random(seed)
    data = (
        with_damaged_bytes(saved, chance)
        if seed % 2
        else json.dumps(with_damaged_value(json.loads(saved), chance)).encode()
    )
    path = tmp_path / NAME
    path.write_bytes(data)
    try:
        loaded = load_run(path)
    except FileError as error:
        assert str(error).startswith(str(path))  # noqa: PT017 - a refusal is one of two fine ends
        assert error.hint is not None  # noqa: PT017 - as above
    else:
        assert says(to_json(loaded), json.loads(data))


def test_an_older_record_without_later_fields_takes_their_defaults(
    tmp_path: Path, run: Run
) -> None:
    body = to_json(run)
    for result in body["results"]:
        del result["boundary"]["detail"]
    path = tmp_path / NAME
    path.write_text(json.dumps(body), encoding="utf-8")
    assert {result.boundary.detail for result in load_run(path).results} == {""}
