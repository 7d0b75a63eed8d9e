"""The cache of proven batches with files that somebody has edited."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from bsprobe.engine.executable_batch import _tell
from bsprobe.storage.batch_cache import ProvenBatch, Question, file_hash, find_batch, keep_batch
from tests.support.builders import settings

QUESTION = Question(
    device="cpu", capacity_bytes=1, torch="2.14.1", bsprobe="0.2.0", settings=settings(), sources=()
)


def found(**changes: Any) -> ProvenBatch:
    known = {"question": QUESTION, "batch": 4, "first_failure": 5, "files": (), "found_at": "today"}
    return ProvenBatch(**{**known, **changes})


def test_a_hash_is_of_the_content_and_of_a_large_file_the_size_and_the_time(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"x = 1")
    with large.open("wb") as file:
        file.truncate(1 << 40)  # takes no space, but hours to read
    assert file_hash(small) == hashlib.sha256(b"x = 1").hexdigest()
    assert file_hash(large) == f"{1 << 40}-{large.stat().st_mtime_ns}"
    assert file_hash(tmp_path) == ""


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "n" * 5000, ""])
def test_a_file_that_cannot_be_named_has_no_hash_and_the_batch_is_searched_again(
    name: str, tmp_path: Path
) -> None:
    assert file_hash(Path(name)) == ""
    keep_batch(tmp_path, found(files=((name, "0123"),)))
    assert find_batch(tmp_path, QUESTION) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": 5},
        {"first_failure": 7},
        {"first_failure": None},
        {"batch": 2**19, "first_failure": 2**19 + 1},
    ],
)
def test_batches_that_do_not_follow_each_other_are_searched_again(
    changes: dict[str, int | None], tmp_path: Path
) -> None:
    keep_batch(tmp_path, found())
    assert find_batch(tmp_path, QUESTION) == found()
    path = QUESTION.path(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    assert find_batch(tmp_path, QUESTION) is None


def test_what_is_logged_of_a_cached_batch_has_no_control_characters(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="bsprobe")
    _tell(found(found_at="\x1b[31m\n::error::x"), "kept", tmp_path / "a\x1bb")
    (record,) = caplog.records
    assert record.getMessage().isprintable()
