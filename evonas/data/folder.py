"""Any folder of images with one sub-folder per class.

``path/<class>/*.{png,jpg,jpeg,npy}``, or ``path/train/<class>/...`` with ``path/test/<class>/...`` (or
``val``) as the held-out part. PNG and JPEG are decoded by Pillow, if it is installed; .npy arrays of
shape (H, W) or (H, W, 1 or 3), uint8 or floats from 0 to 1, need nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evonas.data.registry import dataset
from evonas.data.types import RawData, Split, to_uint8
from evonas.errors import DataError, EnvironmentUnusable, UsageError

_PILLOW = {".png", ".jpg", ".jpeg"}
_KNOWN = {*_PILLOW, ".npy"}


def _decoded(file: Path) -> NDArray[np.uint8]:
    try:
        from PIL import Image
    except ImportError as error:
        raise EnvironmentUnusable(
            f"{file}: reading PNG and JPEG needs Pillow, which is not installed", hint="pip install pillow"
        ) from error
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("L" if image.mode in ("1", "L", "I", "I;16") else "RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as an image: {error}") from error


def read_image(file: Path, size: int, channels: int) -> NDArray[np.uint8]:
    """One image as uint8 (channels, size, size): the short side is resized to ``size``, the centre kept.

    Raises DataError that names the file for shapes and values that are not an image's.
    """
    if file.suffix.lower() == ".npy":
        try:
            loaded = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{file}: cannot be read as a .npy array: {error}") from error
        if loaded.ndim not in (2, 3) or (loaded.ndim == 3 and loaded.shape[2] not in (1, 3)):
            raise DataError(f"{file}: shape {loaded.shape}, needed is (H, W), (H, W, 1) or (H, W, 3)")
        pixels = to_uint8(loaded, str(file))
    else:
        pixels = _decoded(file)
    if 0 in pixels.shape:
        raise DataError(f"{file}: no pixels in it (shape {pixels.shape})")
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    if channels == 1 and len(planes) == 3:
        weights = np.array([0.299, 0.587, 0.114]).reshape(3, 1, 1)  # ITU-R BT.601 luma
        planes = np.rint((planes * weights).sum(axis=0, keepdims=True)).astype(np.uint8)
    elif channels == 3 and len(planes) == 1:
        planes = np.repeat(planes, 3, axis=0)
    return _fitted(np.ascontiguousarray(planes), size)


def _fitted(planes: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    import torch
    import torch.nn.functional as F

    _, height, width = planes.shape
    if min(height, width) != size:
        scale = size / min(height, width)
        shape = (max(size, round(height * scale)), max(size, round(width * scale)))
        image = torch.from_numpy(planes.copy())[None].float()
        image = F.interpolate(image, shape, mode="bilinear", antialias=True, align_corners=False)
        planes = image[0].round().clamp(0, 255).to(torch.uint8).numpy()
    top, left = (planes.shape[1] - size) // 2, (planes.shape[2] - size) // 2
    return planes[:, top : top + size, left : left + size]


def _classes(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _split(root: Path, classes: Sequence[str], size: int, channels: int) -> Split:
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for folder in _classes(root):
        if folder.name not in classes:
            raise DataError(f"{folder}: class {folder.name!r} is not among the training classes")
        files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in _KNOWN)
        if not files:
            raise DataError(f"{folder}: no images in it", hint=f"known are {', '.join(sorted(_KNOWN))}")
        images.extend(read_image(f, size, channels) for f in files)
        labels.extend([classes.index(folder.name)] * len(files))
    return Split(np.stack(images), np.array(labels, dtype=np.int64))


@dataset("image_folder")
def image_folder(path: Path | None = None, size: int = 32, channels: int = 3) -> RawData:
    """The images below ``path`` as (channels, size, size); ``channels`` is 1 or 3."""
    if path is None:
        raise UsageError("data set 'image_folder' needs a path to a folder with one sub-folder per class")
    if not path.is_dir():
        raise DataError(f"{path}: no such folder")
    if channels not in (1, 3) or size < 1:
        raise UsageError(
            f"image_folder: channels {channels}, size {size}; needed are 1 or 3, and a size above 0"
        )
    root = path / "train" if (path / "train").is_dir() else path
    held = next((path / n for n in ("test", "val") if root != path and (path / n).is_dir()), None)
    classes = tuple(p.name for p in _classes(root))
    if len(classes) < 2:
        raise DataError(f"{root}: {len(classes)} class folders, needed are at least 2")
    return RawData(
        train=_split(root, classes, size, channels),
        heldout=None if held is None else _split(held, classes, size, channels),
        classes=classes,
        validation=0.2,
        source=str(path),
    )
