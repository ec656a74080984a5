"""CIFAR-10 and CIFAR-100 from the official binary archives, in a folder that the user names.

A record of CIFAR-10 is one label byte and 3,072 pixel bytes (red, green, blue planes of 32x32, row by
row); a record of CIFAR-100 has a coarse and a fine label byte first. Source: Krizhevsky 2009 and the
description that comes with the archives. evonas ships and downloads neither.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from evonas.data.registry import dataset
from evonas.data.types import RawData, Split
from evonas.errors import DataError, UsageError

_PIXELS = 3 * 32 * 32
_CIFAR10_FOLDER, _CIFAR10_ARCHIVE = "cifar-10-batches-bin", "cifar-10-binary.tar.gz"
_CIFAR100_FOLDER, _CIFAR100_ARCHIVE = "cifar-100-binary", "cifar-100-binary.tar.gz"


def _reader(path: Path | None, name: str, folder: str, archive: str) -> Callable[[str], bytes | None]:
    """A function from a file's name to its bytes, or to None if it is not there.

    ``path`` may be the .tar.gz, the unpacked folder, or a folder that holds either.
    """
    hint = f"put {archive} or its folder {folder} somewhere and name that place as the data's path"
    if path is None:
        raise UsageError(f"data set {name!r} needs a path: evonas does not ship it", hint=hint)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder, needed for data set {name!r}", hint=hint)
    if path.is_dir():
        root = path / folder if (path / folder).is_dir() else path
        if any(root.glob("*.bin")):
            return lambda file: (root / file).read_bytes() if (root / file).is_file() else None
        if not (path / archive).is_file():
            raise DataError(f"{path}: neither {archive} nor .bin files in it", hint=hint)
        path = path / archive
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isfile() else None
                if content is not None:
                    members[Path(member.name).name] = content.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as a tar archive: {error}", hint=hint) from error
    return members.get


def _records(
    read: Callable[[str], bytes | None], files: list[str], labels: int, pick: int, classes: int, where: str
) -> Split:
    """All records of ``files``; ``labels`` label bytes each, of which number ``pick`` is the class."""
    parts = []
    size = labels + _PIXELS
    for file in files:
        data = read(file)
        if data is None:
            raise DataError(f"{where}: file {file} is missing", hint="unpack the official archive again")
        if len(data) == 0 or len(data) % size:
            raise DataError(
                f"{where}: {file} has {len(data)} bytes, needed is a multiple of {size}: cut short?"
            )
        records = np.frombuffer(data, np.uint8).reshape(-1, size)
        wrong = np.flatnonzero(records[:, pick] >= classes)
        if len(wrong):
            at = int(wrong[0])
            raise DataError(
                f"{where}: {file}: label {int(records[at, pick])} in record {at}, needed: 0 to {classes - 1}"
            )
        parts.append(records)
    everything = np.concatenate(parts)
    return Split(everything[:, labels:].reshape(-1, 3, 32, 32), everything[:, pick].astype(np.int64))


def _names(read: Callable[[str], bytes | None], file: str, count: int) -> tuple[str, ...]:
    """The class names of the archive, or numbers where the list is missing or has another length."""
    text = (read(file) or b"").decode("utf-8", "replace")
    found = tuple(line.strip() for line in text.splitlines() if line.strip())
    return found if len(found) == count else tuple(str(i) for i in range(count))


@dataset("cifar10")
def cifar10(path: Path | None = None) -> RawData:
    """50,000 + 10,000 colour images of 32x32, 10 classes; the test batch is the held-out part."""
    read = _reader(path, "cifar10", _CIFAR10_FOLDER, _CIFAR10_ARCHIVE)
    train = [f"data_batch_{i}.bin" for i in range(1, 6)]
    return RawData(
        train=_records(read, train, 1, 0, 10, str(path)),
        heldout=_records(read, ["test_batch.bin"], 1, 0, 10, str(path)),
        classes=_names(read, "batches.meta.txt", 10),
        source=f"cifar10 in {path}",
    )


@dataset("cifar100")
def cifar100(path: Path | None = None, labels: str = "fine") -> RawData:
    """50,000 + 10,000 colour images of 32x32; ``labels`` is "fine" (100 classes) or "coarse" (20)."""
    if labels not in ("fine", "coarse"):
        raise UsageError(f"cifar100: labels is {labels!r}, needed is 'fine' or 'coarse'")
    pick, count = (1, 100) if labels == "fine" else (0, 20)
    read = _reader(path, "cifar100", _CIFAR100_FOLDER, _CIFAR100_ARCHIVE)
    return RawData(
        train=_records(read, ["train.bin"], 2, pick, count, str(path)),
        heldout=_records(read, ["test.bin"], 2, pick, count, str(path)),
        classes=_names(read, f"{labels}_label_names.txt", count),
        source=f"cifar100 in {path}",
    )
