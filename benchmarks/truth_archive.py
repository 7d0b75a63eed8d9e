"""Recordings as tar archives of limited size, for machines that limit the size of files."""

import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bsprobe.records.units import MIB, format_bytes

PART_BYTES = 15 * MIB
"""Largest size of one archive; some machines return files of at most 16 MiB."""
MOST_PARTS = 4
_BLOCK_BYTES = 512
"""Block of a tar archive: a member has a header of one block and is padded to whole blocks."""
_RECORD_BYTES = 20 * _BLOCK_BYTES
"""The length of an archive is a multiple of this, and it ends with two empty blocks."""


def pack(root: Path, archive: Path | None) -> None:
    """Pack everything below a folder into archives, if `archive` is given.

    Args:
        root: The folder.
        archive: `NAME.tar`; the parts are `NAME-1.tar`, `NAME-2.tar` and so on. An older part is
            replaced as a whole. A part that cannot be written is reported and skipped, because the
            recordings are still in the folder.
    """
    if archive is None:
        return
    try:
        _pack(root, archive)
    except OSError as error:
        print(f"not packed: {error}", file=sys.stderr, flush=True)


def _pack(root: Path, archive: Path) -> None:
    for number, paths in enumerate(_parts(root), start=1):
        if number > MOST_PARTS:
            print(
                f"not packed, no archive is left for {len(paths)} files",
                file=sys.stderr,
                flush=True,
            )
            continue
        target = archive.with_name(f"{archive.stem}-{number}{archive.suffix}")
        partial = target.with_name(f".{target.name}.partial")
        with tarfile.open(partial, "w") as tar:
            for path in paths:
                tar.add(path, arcname=str(path.relative_to(root)))
        partial.replace(target)


def _parts(root: Path) -> Iterator[Sequence[Path]]:
    """Yield the files of each archive, oldest first, so that full archives do not change."""
    part: list[Path] = []
    size = _RECORD_BYTES
    files = [(path.stat(), path) for path in root.rglob("*") if path.is_file()]
    for status, path in sorted(files, key=lambda each: (each[0].st_mtime_ns, each[1])):
        # A long name takes two more blocks.
        needed = 4 * _BLOCK_BYTES + -(-status.st_size // _BLOCK_BYTES) * _BLOCK_BYTES
        if needed + _RECORD_BYTES > PART_BYTES:
            large = format_bytes(status.st_size)
            print(f"not packed, {large} is too large: {path}", file=sys.stderr, flush=True)
            continue
        if part and size + needed > PART_BYTES:
            yield part
            part, size = [], _RECORD_BYTES
        part.append(path)
        size += needed
    if part:
        yield part
