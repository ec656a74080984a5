"""The embedded default: 6,000 images of Fashion-MNIST (Zalando SE, MIT licence), 28x28 grey, 10 classes.

5,000 training images (the first 500 of every class) and 1,000 test images (the first 100 of every
class), in the order of the source. The test images are the held-out part; a fifth of the training
images, 1,000, is the validation part, so that the sampling error of a score near 0.8 is 0.013.
Source: Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747.
"""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from pathlib import Path

import numpy as np

from evonas.data.png import decode_grey
from evonas.data.registry import dataset
from evonas.data.types import RawData, Split
from evonas.errors import DataError, UsageError

PACKAGE = "evonas.data.fashion_mnist"
SIDE = 28
CLASSES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


@dataset("fashion_mnist_small")
def fashion_mnist_small(path: Path | None = None) -> RawData:
    """The embedded subset; ``path`` must be None. Raises DataError if the shipped files are damaged."""
    if path is not None:
        raise UsageError(
            f"data set 'fashion_mnist_small' is embedded, but a path was given: {path}",
            hint="leave the path out, or use data set 'image_folder'",
        )
    folder = files(PACKAGE)
    facts = json.loads((folder / "source.json").read_text(encoding="utf-8"))
    packed = (folder / "images.png").read_bytes()
    labels = np.frombuffer((folder / "labels.bin").read_bytes(), np.uint8)
    for name, data in (("images.png", packed), ("labels.bin", labels.tobytes())):
        if hashlib.sha256(data).hexdigest() != facts["sha256"][name]:
            raise DataError(f"{PACKAGE}: {name} is damaged", hint="install evonas again")
    sheet = decode_grey(packed, "images.png")
    columns, count = sheet.shape[1] // SIDE, len(labels)
    images = sheet.reshape(-1, SIDE, columns, SIDE).transpose(0, 2, 1, 3).reshape(count, 1, SIDE, SIDE)
    train = facts["train"]
    return RawData(
        train=Split(images[:train], labels[:train].astype(np.int64)),
        heldout=Split(images[train:], labels[train:].astype(np.int64)),
        classes=CLASSES,
        validation=0.2,
        source="fashion_mnist_small",
    )
