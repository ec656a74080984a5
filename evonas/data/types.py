"""What a data set is, and the checks that every one passes before anything is trained on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evonas.errors import DataError


@dataclass(frozen=True, slots=True)
class Split:
    """``images``: uint8, (N, C, H, W). ``labels``: int64, (N,), in [0, classes). Both read-only."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class RawData:
    """What a loader returns. ``load`` cuts validation (and held-out, when None) off ``train``."""

    train: Split
    heldout: Split | None
    classes: tuple[str, ...]
    #: fraction of ``train`` that becomes the validation part when the caller names none.
    validation: float = 0.1
    #: says where the data came from in error messages.
    source: str = "data"


@dataclass(frozen=True, slots=True)
class SearchView:
    """The part of a data set that the search may see. There is no way from here to the held-out part."""

    name: str
    train: Split
    validation: Split
    classes: tuple[str, ...]
    #: per channel, of the train part, in units of [0, 1].
    mean: tuple[float, ...]
    std: tuple[float, ...]

    kind = "image"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        _, c, h, w = self.train.images.shape
        return c, h, w


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set with its three parts. ``heldout`` is for the final report alone."""

    name: str
    train: Split
    validation: Split
    heldout: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    kind = "image"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        _, c, h, w = self.train.images.shape
        return c, h, w

    def search_view(self) -> SearchView:
        """Train and validation parts only."""
        return SearchView(self.name, self.train, self.validation, self.classes, self.mean, self.std)


def checked_split(split: Split, classes: int, source: str) -> Split:
    """The split with int64 labels and read-only arrays.

    Raises DataError, naming ``source`` and the first offending index, when the arrays do not have the
    documented shapes and types or a label is outside [0, classes).
    """
    images, labels = np.asarray(split.images), np.asarray(split.labels)
    if images.ndim != 4:
        raise DataError(f"{source}: images have shape {images.shape}, needed is (N, C, H, W)")
    if images.dtype != np.uint8:
        raise DataError(f"{source}: images have type {images.dtype}, needed is uint8 with values 0 to 255")
    if labels.shape != (len(images),):
        raise DataError(f"{source}: {len(images)} images but labels of shape {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise DataError(f"{source}: labels have type {labels.dtype}, needed are integers")
    if 0 in images.shape:
        raise DataError(f"{source}: no images in it (shape {images.shape})")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        at = int(wrong[0])
        raise DataError(f"{source}: label {int(labels[at])} at index {at}, needed is 0 to {classes - 1}")
    images, labels = np.ascontiguousarray(images), labels.astype(np.int64)
    images.flags.writeable = False
    labels.flags.writeable = False
    return Split(images, labels)


def to_uint8(array: NDArray[np.generic], source: str) -> NDArray[np.uint8]:
    """Pixel values as uint8: integers must be 0 to 255, floats must be finite and in [0, 1].

    Raises DataError that names ``source`` and the index of the first value that is not.
    """
    if array.dtype == np.uint8:
        return array.astype(np.uint8, copy=False)
    if array.dtype.kind == "f":
        values = array.astype(np.float64)
        low, high, needed = 0.0, 1.0, "finite values from 0 to 1"
    elif array.dtype.kind in "iu":
        values = array.astype(np.float64)
        low, high, needed = 0.0, 255.0, "integers from 0 to 255"
    else:
        raise DataError(f"{source}: pixels of type {array.dtype}, needed are uint8 or floats from 0 to 1")
    with np.errstate(invalid="ignore"):
        good = (values >= low) & (values <= high)
    if not good.all():
        at = tuple(int(i) for i in np.argwhere(~good)[0])
        raise DataError(f"{source}: value {values[at]} at index {at}, needed are {needed}")
    return np.rint(values * (255.0 / high)).astype(np.uint8)
