"""Text: the embedded default, and a file of the user's own.

``sotu_moby`` holds every third State of the Union address, 1790 to 2021, and Moby-Dick by chapter: 4.8 million
bytes. The addresses are in order of date and their language changes with it, so parts are cut by address and
interleave: a cut at 95 % would make the hold-out another century.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

from evonas.data.registry import dataset
from evonas.data.text import RawText
from evonas.errors import DataError, UsageError

PACKAGE = "evonas.data.sotu_moby"
#: a file of the user's is cut into blocks of at least so many bytes, and into at most so many blocks.
BLOCK, BLOCKS = 4096, 200
#: the fewest blocks: one for validation and one held out, eight to train on.
FEWEST = 10


@dataset("sotu_moby")
def sotu_moby(path: Path | None = None) -> RawText:
    """The embedded text; ``path`` must be None. Raises DataError if the shipped files are damaged."""
    if path is not None:
        raise UsageError(
            f"data set 'sotu_moby' is embedded, but a path was given: {path}",
            hint=f"leave the path out, or use data set 'text_file': --data text_file --data-path {path}",
        )
    folder = files(PACKAGE)
    facts = json.loads((folder / "source.json").read_text(encoding="utf-8"))
    packed = (folder / "text.xz").read_bytes()
    if hashlib.sha256(packed).hexdigest() != facts["sha256"]:
        raise DataError(f"{PACKAGE}: text.xz is damaged", hint="install evonas again")
    text = lzma.decompress(packed)
    documents, at = [], 0
    for _, length in facts["documents"]:
        documents.append(text[at : at + length] + b"\n\n")
        at += length
    return RawText(tuple(documents), source="sotu_moby")


@dataset("text_file")
def text_file(path: Path | None = None) -> RawText:
    """Any file, read as bytes: UTF-8, another encoding, or no text at all.

    It is cut into blocks that follow each other, of 4,096 bytes at least if there is enough for ten of them, and
    the parts are made of whole blocks. Raises DataError for a file that is missing, empty or of fewer than ten bytes.
    """
    if path is None:
        raise UsageError(
            "data set 'text_file' needs a path to a file", hint="--data text_file --data-path FILE"
        )
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror or error}", hint="--data-path FILE, a file with text"
        ) from error
    if not text:
        raise DataError(
            f"{path}: the file is empty, needed is text", hint="--data-path FILE, a file with text"
        )
    if len(text) < FEWEST:
        raise DataError(
            f"{path}: {len(text)} byte{'s' * (len(text) != 1)}, too few for training, validation and held-out",
            hint="name a longer text: some thousand bytes at least, some million for training that says anything",
        )
    count = min(BLOCKS, max(FEWEST, len(text) // BLOCK))
    cuts = [len(text) * i // count for i in range(count + 1)]
    return RawText(tuple(text[a:b] for a, b in pairwise(cuts)), source=str(path))
