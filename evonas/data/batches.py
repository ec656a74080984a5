"""Training and validation batches as a function of (seed, step): no loader processes, no state.

The images stay uint8 in one tensor per process; a batch is gathered, cropped, scaled and normalised
when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from evonas.data.types import SearchView, Split
from evonas.errors import UsageError
from evonas.rng import derive_seed

_TENSORS: dict[tuple[int, str], tuple[Split, Tensor, Tensor]] = {}


def tensors(split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    """The split's uint8 images and int64 labels on ``device``, made once per process."""
    key = (id(split), str(device))
    if key not in _TENSORS:
        images, labels = torch.tensor(split.images), torch.tensor(split.labels)
        _TENSORS[key] = split, images.to(device), labels.to(device)
    return _TENSORS[key][1:]


def shared(count: int, share: float, *, seed: int, needed: int = 1, what: str = "samples") -> Tensor | None:
    """Which of ``count`` training samples a training sees that is given only a share of them.

    The first round(share * count) of a permutation that ``seed`` fixes, as int64 indices; None for all of them. A
    smaller share is part of a larger one, and every layer that trains with the same seed is given the same samples.

    Raises UsageError for a share outside (0, 1] and for one that leaves fewer than ``needed`` samples.
    """
    if not 0 < share <= 1:
        raise UsageError(f"the share of the training data is {share}, needed is a number above 0, at most 1")
    if share == 1:
        return None
    left = round(share * count)
    if left < needed:
        raise UsageError(
            f"{share:g} of {count} training {what} are {left}, needed are {needed}: a batch",
            hint="take a larger share or a smaller batch",
        )
    return torch.randperm(count, generator=torch.Generator().manual_seed(derive_seed("data share", seed)))[
        :left
    ]


class Normalise:
    """uint8 (N, C, H, W) -> float32: averaged over ``pool`` x ``pool`` pixels, minus mean, over std."""

    def __init__(self, view: SearchView, pool: int, device: torch.device) -> None:
        self.pool = pool
        shape = (1, len(view.mean), 1, 1)
        self.scale = torch.tensor([1 / (255 * s) for s in view.std], device=device).reshape(shape)
        self.shift = torch.tensor(
            [-m / s for m, s in zip(view.mean, view.std, strict=True)], device=device
        ).reshape(shape)

    def __call__(self, images: Tensor) -> Tensor:
        values = images.float()
        if self.pool > 1:
            values = F.avg_pool2d(values, self.pool)
        return values.mul_(self.scale).add_(self.shift)


class Batches:
    """Training batches: every epoch a new order, for every image a random crop and (if asked) a flip."""

    def __init__(
        self,
        view: SearchView,
        *,
        batch: int,
        crop: int,
        pool: int = 1,
        flip: bool = False,
        seed: int = 0,
        share: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> None:
        """``batch`` images a step, windows of ``crop`` x ``crop`` pixels before pooling.

        ``share``: of the training images, that are seen at all; see ``shared``.

        Raises UsageError when the training part is smaller than a batch or an image than the crop.
        """
        self.device = torch.device(device)
        _, height, width = view.shape
        if len(view.train) < batch:
            raise UsageError(
                f"data set {view.name!r} has {len(view.train)} training images, needed is a batch of {batch}"
            )
        if crop > min(height, width):
            raise UsageError(
                f"data set {view.name!r} has images of {height}x{width}, needed is the crop {crop}x{crop}"
            )
        self._shared = shared(
            len(view.train), share, seed=seed, needed=batch, what=f"images of {view.name!r}"
        )
        self.images, self.labels = tensors(view.train, self.device)
        self.normalise = Normalise(view, pool, self.device)
        self.batch, self.crop, self.flip, self.seed = batch, crop, flip, seed
        self.per_epoch = (len(view.train) if self._shared is None else len(self._shared)) // batch
        self._room = (height - crop + 1, width - crop + 1)
        self._epoch = -1
        self._plan: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def _planned(self, epoch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if self._plan is None or self._epoch != epoch:
            generator = torch.Generator().manual_seed(derive_seed("data order", self.seed, epoch))
            count = len(self.labels) if self._shared is None else len(self._shared)
            order = torch.randperm(count, generator=generator)
            drawn = (
                order if self._shared is None else self._shared[order],
                torch.randint(self._room[0], (count,), generator=generator),
                torch.randint(self._room[1], (count,), generator=generator),
                torch.randint(2, (count,), generator=generator).bool(),
            )
            order, top, left, mirrored = (d.to(self.device) for d in drawn)
            self._plan = order, top, left, mirrored
            self._epoch = epoch
        return self._plan

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Step number ``step`` (from 0): float32 (batch, C, crop / pool, crop / pool), int64 (batch,)."""
        epoch, at = divmod(step, self.per_epoch)
        order, top, left, mirrored = self._planned(epoch)
        here = slice(at * self.batch, (at + 1) * self.batch)
        chosen = order[here]
        windows = self.images.unfold(2, self.crop, 1).unfold(3, self.crop, 1)
        images = windows[chosen, :, top[here], left[here]]
        if self.flip:
            images = torch.where(mirrored[here].reshape(-1, 1, 1, 1), images.flip(3), images)
        return self.normalise(images), self.labels[chosen]


def whole(
    split: Split,
    view: SearchView,
    *,
    batch: int,
    crop: int | None = None,
    pool: int = 1,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Tensor, Tensor]]:
    """All images of ``split`` in order: float32 (n, C, H / pool, W / pool), int64 (n,).

    ``crop``: the side of the central window that is taken, in pixels before pooling; None: all of it.
    """
    images, labels = tensors(split, torch.device(device))
    if crop is not None:
        height, width = images.shape[2:]
        if crop > min(height, width):
            raise UsageError(
                f"the images that are scored are {height}x{width}, needed is the window {crop}x{crop}",
                hint="make eval_crop smaller",
            )
        top, left = ((size - crop) // 2 for size in images.shape[2:])
        images = images[:, :, top : top + crop, left : left + crop]
    normalise = Normalise(view, pool, torch.device(device))
    for start in range(0, len(labels), batch):
        yield normalise(images[start : start + batch]), labels[start : start + batch]
