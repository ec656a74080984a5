"""What a swap has replaced and what it has left, and the way back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from evonas.errors import UsageError
from evonas.swapping.nested import turn_on_again


class Entry(NamedTuple):
    """One place.

    path: of the module. kind: "norm_act", "norm" (without activation) or "act". was: classes of what stood there.
    channels: C, None if unknown. shape: of the tensor that was seen, None if none was. by: what stands there now, ""
    if it was left. reason: why it was left, "" if replaced. act: path of the activation module of a pair.
    """

    path: str
    kind: str
    was: str
    channels: int | None
    shape: tuple[int, ...] | None
    by: str = ""
    reason: str = ""
    act: str = ""


class Change(NamedTuple):
    """A module that took the place of another one, at every (owner, name) where that was registered. encoders: above
    it, whose nested tensors are off for it."""

    owners: tuple[tuple[nn.Module, str], ...]
    old: nn.Module
    new: nn.Module
    encoders: tuple[nn.TransformerEncoder, ...] = ()


@dataclass(repr=False)
class SwapReport:
    """What ``evonas.swap`` did. ``print(report)`` shows it as a table.

    layers: formula by what it went into. found: how places were found. replaced, left: places, in the model's order.
    dry_run: nothing was changed.
    """

    model: str
    layers: dict[str, str]
    found: str
    replaced: tuple[Entry, ...]
    left: tuple[Entry, ...]
    dry_run: bool = False
    _changes: Sequence[Change] = field(default=(), compare=False)
    _root: nn.Module | None = field(default=None, compare=False)

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of places: ``layers`` put in, norms that became an ``affine``, and ``left``."""
        affine = sum(entry.by == "affine" for entry in self.replaced)
        return {"layers": len(self.replaced) - affine, "affine": affine, "left": len(self.left)}

    def undo(self) -> None:
        """Put the very modules back that were there, with the state they had.

        They go to the device where the model is now: that of what stands in the place, or else of its neighbours.
        A cast since the swap is not made up for: modules come back in the dtype that they had. Cast the model again,
        or undo first.

        Raises:
            UsageError: a dry run, undone already, or another swap stands on top of this one.
        """
        if self.dry_run or not self._changes:
            why = "a dry run changed nothing" if self.dry_run else "this swap is undone already"
            raise UsageError(f"nothing to undo: {why}", hint="swap again with dry_run=False")
        for change in self._changes:
            for owner, name in change.owners:
                if owner._modules.get(name) is not change.new:
                    raise UsageError(
                        f"cannot undo: {name!r} of a {type(owner).__name__} is not what this swap put there",
                        hint="undo later swaps first, the last one first",
                    )
        for change in reversed(self._changes):
            above = [owner for owner, _ in change.owners]
            now = _device([change.new, *above, *([] if self._root is None else [self._root])])
            if now is not None:
                change.old.to(now)
            for owner, name in change.owners:
                owner._modules[name] = change.old
            _set_mode(change.old, change.new.training)
        turn_on_again(encoder for change in self._changes for encoder in change.encoders)
        self._changes = ()

    def to_dict(self) -> dict[str, Any]:
        """Everything but the modules, for JSON."""
        return {
            "model": self.model,
            "layers": dict(self.layers),
            "found": self.found,
            "dry_run": self.dry_run,
            "counts": self.counts,
            "replaced": [_plain(entry) for entry in self.replaced],
            "left": [_plain(entry) for entry in self.left],
        }

    def __str__(self) -> str:
        count = self.counts
        verb = "would become" if self.dry_run else "became"
        what = "; ".join(f"{name}: {formula}" for name, formula in self.layers.items())
        lines = [
            f"{self.model}: {count['layers']} {verb} layers, {count['affine']} {verb} affines, {count['left']} left",
            what,
            f"places {self.found}",
        ]
        for title, entries, last in (("replaced", self.replaced, "by"), ("left", self.left, "reason")):
            if entries:
                rows = [
                    (e.path or "(the model)", e.was, e.channels, _by(e.shape), getattr(e, last))
                    for e in entries
                ]
                lines += ["", *_table((title, "was", "channels", "tensor", last), rows)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        count = self.counts
        words = ", ".join(f"{name}={n}" for name, n in count.items())
        return f"SwapReport({self.model}, {words}{', dry_run' if self.dry_run else ''})"


def _plain(entry: Entry) -> dict[str, Any]:
    values = entry._asdict()
    return values | {"shape": list(entry.shape) if entry.shape is not None else None}


def _by(shape: tuple[int, ...] | None) -> str:
    return "" if shape is None else "x".join(map(str, shape))


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    text = [["" if cell is None else str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in text) for i in range(len(head) - 1)]
    return [
        "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in text
    ]


def _device(modules: Sequence[nn.Module]) -> torch.device | None:
    """Where the first of them that has tensors has them."""
    tensors = (t for module in modules for t in (*module.parameters(), *module.buffers()))
    return next((t.device for t in tensors), None)


def _set_mode(module: nn.Module, training: bool) -> None:
    module.train(training)


def summary(modules: Sequence[nn.Module]) -> str:
    """Classes with their numbers, the most frequent first: "20 BatchNorm2d, 17 ReLU"."""
    counted = Counter(type(module).__name__ for module in modules)
    return ", ".join(f"{n} {name}" for name, n in counted.most_common()) or "none"


def is_meta(model: nn.Module) -> bool:
    """Whether a parameter or buffer has no data."""
    return any(t.device == torch.device("meta") for t in [*model.parameters(), *model.buffers()])
