"""Images of your own: a loader that returns arrays. Here it draws stripes in four directions.

    evonas list data --plugin examples/own_data.py
    evonas search --space norm_act --plugin examples/own_data.py --data stripes
    python examples/own_data.py

A folder of images needs no code: --data image_folder --data-path DIR, with one sub-folder per class.
"""

import numpy as np

from evonas.data import RawData, Split, dataset

CLASSES = ("horizontal", "vertical", "rising", "falling")


@dataset("stripes")
def stripes(path=None, images=800, size=28):
    """`path` is what --data-path gives; a loader that needs none ignores it."""
    rng = np.random.default_rng(7)
    labels = np.arange(images) % len(CLASSES)
    rows, columns = np.mgrid[0:size, 0:size]
    directions = np.stack([rows, columns, rows + columns, rows - columns])
    phase = rng.uniform(0, 2 * np.pi, (images, 1, 1))
    waves = 0.5 + 0.3 * np.sin(0.9 * directions[labels] + phase) + rng.normal(0, 0.1, (images, size, size))
    pixels = (255 * waves.clip(0, 1)).astype(np.uint8)
    # heldout=None: a fifth of every class is set aside for the final ranking, a tenth scores candidates
    return RawData(Split(pixels[:, None], labels), None, CLASSES, source="stripes")


def main() -> None:
    from evonas import data

    made = data.load("stripes")
    print(f"{made.name}: {made.shape}, {len(made.train)} to train on, {len(made.validation)} to score with,"
          f" {len(made.heldout)} held out")  # fmt: skip


if __name__ == "__main__":
    main()
