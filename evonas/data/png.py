"""The subset of PNG that the embedded sheet uses: 8-bit grey, not interlaced, filters 0 to 2.

These three filters undo with one vector operation a row, so that no imaging library is needed and
5 megapixels decode in about 30 ms. Format: RFC 2083.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from evonas.errors import DataError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def encode_grey(image: NDArray[np.uint8]) -> bytes:
    """PNG bytes of a uint8 (H, W) image; per row the filter with the smallest sum of absolute values."""
    height, width = image.shape
    sub, up = image.copy(), image.copy()
    sub[:, 1:] -= image[:, :-1]
    up[1:] -= image[:-1]
    choices = np.stack([image, sub, up])
    kinds = np.abs(choices.view(np.int8).astype(np.int32)).sum(axis=2).argmin(axis=0)
    rows = b"".join(bytes([k]) + choices[k, y].tobytes() for y, k in enumerate(kinds))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows, 9)) + _chunk(b"IEND", b"")
    return _SIGNATURE + body


def decode_grey(data: bytes, source: str = "PNG") -> NDArray[np.uint8]:
    """The uint8 (H, W) image in ``data``. Raises DataError for damage and for other kinds of PNG."""
    if not data.startswith(_SIGNATURE):
        raise DataError(f"{source}: not a PNG file")
    at, header, packed = len(_SIGNATURE), b"", b""
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        crc = data[at + 8 + length : at + 12 + length]
        if crc != struct.pack(">I", zlib.crc32(kind + content)):
            raise DataError(f"{source}: damaged, checksum of chunk {kind!r} at byte {at} does not match")
        header = content if kind == b"IHDR" else header
        packed += content if kind == b"IDAT" else b""
        at += 12 + length
    if len(header) != 13 or header[8:] != bytes([8, 0, 0, 0, 0]):
        raise DataError(f"{source}: needed is an 8-bit grey PNG without interlacing")
    width, height = struct.unpack(">II", header[:8])
    try:
        rows = np.frombuffer(zlib.decompress(packed), np.uint8)
    except zlib.error as error:
        raise DataError(f"{source}: damaged, {error}") from error
    if len(rows) != height * (width + 1):
        raise DataError(f"{source}: {len(rows)} bytes of pixels, needed are {height * (width + 1)}")
    rows = rows.reshape(height, width + 1)
    image = np.zeros((height, width), np.uint8)
    above = np.zeros(width, np.uint8)
    for y, (kind_of_row, row) in enumerate(zip(rows[:, 0].tolist(), rows[:, 1:], strict=True)):
        if kind_of_row == 0:
            image[y] = row
        elif kind_of_row == 1:
            np.cumsum(row, dtype=np.uint8, out=image[y])
        elif kind_of_row == 2:
            np.add(row, above, out=image[y])
        else:
            raise DataError(f"{source}: row {y} uses filter {kind_of_row}, needed are filters 0 to 2")
        above = image[y]
    return image
