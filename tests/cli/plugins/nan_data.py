"""A data set with a NaN in it."""

import numpy as np

from evonas.data import RawData, Split, dataset
from evonas.data.types import to_uint8


@dataset("acme_nan")
def load(path=None):
    images = np.zeros((40, 1, 28, 28), dtype=np.float32)
    images[7, 0, 3, 3] = np.nan
    return RawData(
        Split(to_uint8(images, "acme_nan"), np.arange(40) % 2), None, ("a", "b"), source="acme_nan"
    )
