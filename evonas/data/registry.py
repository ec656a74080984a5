"""Data sets by name, and the one place where the three-way split is cut."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from evonas.data.text import RawText, TextData, split_text
from evonas.data.types import Dataset, RawData, Split, checked_split
from evonas.errors import DataError, PluginError, UsageError, unknown_name
from evonas.plugins import check_registration, entry_point_names, load_entry_point, origin
from evonas.rng import Draws

Loader = Callable[..., RawData | RawText]

#: the built-in data sets, imported when first asked for.
_BUILTIN = {
    "fashion_mnist_small": "evonas.data.fashion",
    "cifar10": "evonas.data.cifar",
    "cifar100": "evonas.data.cifar",
    "image_folder": "evonas.data.folder",
    "sotu_moby": "evonas.data.text_sets",
    "text_file": "evonas.data.text_sets",
}
_LOADERS: dict[str, Loader] = {}
_CACHE: dict[tuple[object, ...], tuple[Loader, Dataset | TextData]] = {}
ENTRY_POINTS = "evonas.datasets"
DEFAULT = "fashion_mnist_small"
DEFAULT_TEXT = "sotu_moby"
#: what networks on images and language models are trained on if nothing else is named.
DEFAULTS = {"image": DEFAULT, "text": DEFAULT_TEXT}


def dataset(name: str) -> Callable[[Loader], Loader]:
    """Register a loader ``f(path=None, **options) -> RawData | RawText`` under ``name``.

    Raises PluginError for the name of a built-in data set, and for a name that another function has; the
    same function of the same module may be registered again.
    """

    def register(loader: Loader) -> Loader:
        if name in _BUILTIN and origin(loader).partition(":")[0] != _BUILTIN[name]:
            raise PluginError(
                f"the data set {name!r} of {origin(loader)} has the name of the one of {_BUILTIN[name]}",
                hint="rename it, for example with a prefix of your own",
            )
        if name in _LOADERS:
            check_registration("data set", name, loader, _LOADERS[name])
        _LOADERS[name] = loader
        return loader

    return register


def names() -> list[str]:
    """Every data set that ``load`` knows, built-in, registered or installed."""
    return sorted({*_BUILTIN, *_LOADERS, *entry_point_names(ENTRY_POINTS)})


def _loader(name: str) -> Loader:
    if name not in _LOADERS and name in _BUILTIN:
        import_module(_BUILTIN[name])
    if name not in _LOADERS:
        loader = load_entry_point(ENTRY_POINTS, name)
        if name not in _LOADERS and loader is not None:
            dataset(name)(loader)
    if name not in _LOADERS:
        raise unknown_name("data set", name, names())
    return _LOADERS[name]


def load(
    name: str = DEFAULT,
    *,
    path: str | Path | None = None,
    validation: float | None = None,
    seed: int = 0,
    **options: Any,
) -> Dataset | TextData:
    """The data set ``name``, split into train, validation and held-out parts, cached per process.

    ``path`` is the file, folder or archive of data sets that are not embedded. ``validation`` is the fraction
    of the training images, or documents, that scores candidates (None: the data set's own); the cut is stratified
    by class, documents interleave, and it is a function of ``seed`` alone. A held-out part that the source does not
    define is cut first and does not depend on ``seed``. ``options`` go to the loader. A loader that returns
    ``RawText`` gives a ``TextData``, any other a ``Dataset``.

    Raises UsageError for an unknown name or option and DataError for data that cannot be trained on.
    """
    if validation is not None and not 0.0 < validation < 1.0:
        raise UsageError(f"validation is {validation}, needed is a fraction between 0 and 1")
    key = (name, str(path), validation, seed, tuple(sorted((k, repr(v)) for k, v in options.items())))
    loader = _loader(name)
    if key not in _CACHE or _CACHE[key][0] is not loader:
        try:
            raw = loader(path=None if path is None else Path(path), **options)
        except TypeError as error:
            if "unexpected keyword" not in str(error):
                raise
            raise UsageError(f"data set {name!r}: {error}") from error
        made: Dataset | TextData
        if isinstance(raw, RawText):
            made = split_text(name, raw, validation, seed)
        else:
            made = _split(name, raw, validation, seed)
        _CACHE[key] = loader, made
    return _CACHE[key][1]


def _split(name: str, raw: RawData, validation: float | None, seed: int) -> Dataset:
    count = len(raw.classes)
    if count < 2:
        raise DataError(f"{raw.source}: {count} class, needed are at least 2")
    pool = checked_split(raw.train, count, raw.source)
    if raw.heldout is None:
        pool, heldout = _cut(pool, 0.2, Draws("heldout", name), raw.source)
    else:
        heldout = checked_split(raw.heldout, count, raw.source)
    if heldout.images.shape[1:] != pool.images.shape[1:]:
        raise DataError(
            f"{raw.source}: training images are {pool.images.shape[1:]} (C, H, W), "
            f"held-out images {heldout.images.shape[1:]}"
        )
    fraction = raw.validation if validation is None else validation
    train, scored = _cut(pool, fraction, Draws("validation", name, seed), raw.source)
    channels = [train.images[:, c] for c in range(train.images.shape[1])]
    mean = tuple(float(c.mean()) / 255.0 for c in channels)
    std = tuple(float(c.std()) / 255.0 or 1.0 for c in channels)
    return Dataset(name, train, scored, heldout, raw.classes, mean, std)


def _cut(pool: Split, fraction: float, draws: Draws, source: str) -> tuple[Split, Split]:
    """Split off ``fraction`` of every class (at least one image); both parts keep the source's order."""
    taken = np.zeros(len(pool), dtype=bool)
    for label in np.unique(pool.labels):
        members = np.flatnonzero(pool.labels == label)
        if len(members) < 2:
            raise DataError(f"{source}: class {int(label)} has a single image, needed are at least 2")
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        taken[members[draws.sample(len(members), count)]] = True
    parts = []
    for mask in (~taken, taken):
        images, labels = pool.images[mask], pool.labels[mask]
        images.flags.writeable = False
        labels.flags.writeable = False
        parts.append(Split(images, labels))
    return parts[0], parts[1]
