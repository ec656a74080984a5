"""Rebuild the files in evonas/data/fashion_mnist/ from Debian's package dataset-fashion-mnist.

    apt-get download dataset-fashion-mnist
    python scripts/build_embedded_data.py dataset-fashion-mnist_*_all.deb [--check]

The package and its files are checked against the digests below. With ``--check`` nothing is written:
the pixels and labels that would be are compared with the files that are there. (The compressed bytes
of the PNG depend on the version of zlib, the pixels do not.)
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evonas.data.fashion import SIDE
from evonas.data.png import decode_grey, encode_grey

TARGET = Path(__file__).resolve().parents[1] / "evonas" / "data" / "fashion_mnist"
PACKAGE_SHA256 = "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"
VERSION = "0.0~git20200523.55506a9-1"
FOLDER = "usr/share/datasets/fashion-mnist"
TRAIN_PER_CLASS = 500
TEST_PER_CLASS = 100
COLUMNS = 100


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes: byte 3 is the number of axes, then big-endian sizes, then data."""
    data = gzip.decompress(path.read_bytes())
    axes = data[3]
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", axes, 4))
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def first_of_every_class(labels: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c in range(10)]))


def subset(root: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images, labels = [], []
    for part, count in (("train", TRAIN_PER_CLASS), ("t10k", TEST_PER_CLASS)):
        part_labels = read_idx(root / f"{part}-labels-idx1-ubyte.gz")
        chosen = first_of_every_class(part_labels, count)
        images.append(read_idx(root / f"{part}-images-idx3-ubyte.gz")[chosen])
        labels.append(part_labels[chosen])
    return np.concatenate(images), np.concatenate(labels)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    digest = hashlib.sha256(arguments.package.read_bytes()).hexdigest()
    if digest != PACKAGE_SHA256:
        print(f"{arguments.package}: sha256 is {digest}, needed is {PACKAGE_SHA256}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["dpkg-deb", "-x", str(arguments.package), folder], check=True)
        images, labels = subset(Path(folder) / FOLDER)
        copyright_text = (Path(folder) / "usr/share/doc/dataset-fashion-mnist/copyright").read_text()
    sheet = images.reshape(-1, COLUMNS, SIDE, SIDE).transpose(0, 2, 1, 3).reshape(-1, COLUMNS * SIDE)
    if arguments.check:
        same = np.array_equal(decode_grey((TARGET / "images.png").read_bytes()), sheet)
        same = same and (TARGET / "labels.bin").read_bytes() == labels.tobytes()
        print("the embedded files match the package" if same else "the embedded files differ")
        return 0 if same else 3
    packed = encode_grey(np.ascontiguousarray(sheet))
    (TARGET / "images.png").write_bytes(packed)
    (TARGET / "labels.bin").write_bytes(labels.tobytes())
    facts = {
        "source": f"Debian package dataset-fashion-mnist {VERSION}",
        "source_sha256": PACKAGE_SHA256,
        "selection": "the first 500 (training) and 100 (test) images of every class, in the source's order",
        "train": 10 * TRAIN_PER_CLASS,
        "test": 10 * TEST_PER_CLASS,
        "columns": COLUMNS,
        "sha256": {
            "images.png": hashlib.sha256(packed).hexdigest(),
            "labels.bin": hashlib.sha256(labels.tobytes()).hexdigest(),
        },
        "sha256_of_pixels": hashlib.sha256(sheet.tobytes()).hexdigest(),
    }
    (TARGET / "source.json").write_text(json.dumps(facts, indent=2) + "\n")
    (TARGET / "LICENSE.txt").write_text(copyright_text)
    print(f"{len(labels)} images, {len(packed)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
