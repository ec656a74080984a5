"""An input that a model can run on, made up from what the model says about itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def given_inputs(example: Any) -> Inputs:
    """Positional and keyword arguments of the call that ``example`` stands for: a tensor, a tuple, or a mapping."""
    if isinstance(example, Mapping):
        return (), dict(example)
    return (tuple(example) if isinstance(example, tuple | list) else (example,)), {}


def takes_vectors(model: nn.Module) -> bool:
    """Whether rows, tokens and maps of vectors are all the same to the first layer, so that a guess proves nothing."""
    return isinstance(_first(model), nn.Linear | nn.LayerNorm)


def guesses(model: nn.Module) -> Iterator[tuple[str, Inputs]]:
    """Inputs worth a try, each with its description, the likeliest first."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(1))
    vocabulary = _vocabulary(model)
    config = getattr(model, "config", None)
    if getattr(config, "vocab_size", None) and vocabulary:
        ids = torch.arange(8, device=like.device).remainder(vocabulary)[None]
        yield "8 token ids", ((), {"input_ids": ids})
    given = getattr(model, "dummy_inputs", None)  # what models of transformers have for such a purpose
    if isinstance(given, Mapping) and all(isinstance(t, Tensor) for t in given.values()):
        yield "its dummy inputs", ((), {name: t.to(like.device) for name, t in given.items()})
    first = _first(model)
    for shape in _shapes(model, first):
        words = "x".join(map(str, shape))
        yield f"a tensor of {words}", ((_ramp(shape, like),), {})
    if vocabulary and isinstance(first, nn.Embedding):
        ids = torch.arange(8, device=like.device).remainder(vocabulary)[None]
        yield "8 token ids", ((ids,), {})


_FIRST = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.Embedding, nn.modules.batchnorm._BatchNorm, nn.LayerNorm)


def _first(model: nn.Module) -> nn.Module | None:
    return next((m for m in model.modules() if isinstance(m, _FIRST)), None)


def _shapes(model: nn.Module, first: nn.Module | None) -> Iterator[tuple[int, ...]]:
    """Of tensors for the first layer with a number of input channels."""
    if isinstance(first, nn.Conv2d):
        yield from ((1, first.in_channels, h, w) for h, w in _image_sizes(model))
    elif isinstance(first, nn.Conv1d):
        yield from ((1, first.in_channels, n) for n in (32, 256, 16000))
    elif isinstance(first, nn.Linear):
        rows, tokens = (2, first.in_features), (1, 7, first.in_features)
        batch_norm = any(isinstance(m, nn.BatchNorm1d) for m in model.modules())
        yield from (rows, tokens) if batch_norm else (tokens, rows)
        yield (1, 4, 6, first.in_features)
    elif isinstance(first, nn.BatchNorm2d):
        yield from ((1, first.num_features, n, n) for n in (8, 32))
    elif isinstance(first, nn.modules.batchnorm._BatchNorm):
        yield from ((2, first.num_features, 8), (2, first.num_features))
    elif isinstance(first, nn.LayerNorm):
        yield (1, 7, *first.normalized_shape)


def _image_sizes(model: nn.Module) -> list[tuple[int, int]]:
    """Heights and widths: what timm and transformers write down, then usual ones, small ones first."""
    sizes: list[tuple[int, int]] = []
    embed = getattr(model, "patch_embed", None)
    for size in (
        getattr(embed, "img_size", None),
        getattr(getattr(model, "config", None), "image_size", None),
    ):
        if isinstance(size, int):
            sizes.append((size, size))
        elif isinstance(size, tuple | list) and len(size) == 2:
            sizes.append((int(size[0]), int(size[1])))
    sizes += [(n, n) for n in (64, 32, 28, 128, 224, 256)]
    for name in ("pretrained_cfg", "default_cfg"):
        size = (getattr(model, name, None) or {}).get("input_size", ())
        if len(size) == 3:
            sizes.append((int(size[1]), int(size[2])))
    return sizes


def _vocabulary(model: nn.Module) -> int:
    return next((m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)), 0)


def _ramp(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Values from -1 to 1, the same each time."""
    count = int(torch.Size(shape).numel())
    return torch.linspace(-1, 1, count).reshape(shape).to(like.device, like.dtype)
