"""Writing text with a language model, token by token: what every token costs depends on the model alone.

A model decodes in a ``Session``, which keeps what its parts remember of the tokens so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from evonas.errors import UsageError
from evonas.rng import derive_seed


class Session:
    """One decoding: the memory of every part of a model, by the part, and the position of the next token."""

    def __init__(self, room: int) -> None:
        """``room``: tokens that will be seen at most, which caches of keys and values are made for."""
        self.room = room
        self.position = 0
        self._memory: dict[int, Any] = {}

    def recall(self, part: nn.Module) -> Any:
        """What ``part`` remembered, None before the first token."""
        return self._memory.get(id(part))

    def remember(self, part: nn.Module, value: Any) -> None:
        """Keep ``value`` for the next token."""
        self._memory[id(part)] = value

    def layer(self, part: nn.Module, x: Tensor) -> Tensor:
        """A layer on the tokens (B, T, C) that follow those it has seen in this session."""
        if not remembers(part):
            y: Tensor = part(x)
            return y
        rows = []
        for token in x.unbind(1):
            y, state = part.step(token, self.recall(part))  # type: ignore[operator]
            self.remember(part, state)
            rows.append(y)
        return torch.stack(rows, 1)


def remembers(layer: nn.Module) -> bool:
    """Whether a layer looks at earlier tokens (causal moments), and is to be decoded by its ``step``."""
    graph = getattr(layer, "graph", None)
    return graph is not None and any(
        node.index is not None and "t" in node.index for _, node in graph.operations()
    )


class Decodes(Protocol):
    """A language model that ``generate`` can run."""

    vocabulary: int

    def read(self, tokens: Tensor, session: Session) -> Tensor:
        """Logits (B, T, vocabulary) of the next tokens (B, T) of a session."""
        ...


@torch.no_grad()
def generate(
    model: Decodes,
    prompt: Tensor | Sequence[int] | bytes,
    tokens: int,
    *,
    temperature: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """``tokens`` new tokens after ``prompt``.

    Args:
        prompt: int64 (T,) or (B, T), a list of numbers, or bytes for a model of bytes; at least one token.
        temperature: 0: the likeliest token, the first of equals. Above: drawn from softmax(logits / temperature).
        seed: of the draws. Tokens are a function of the model, the prompt and it.

    Returns:
        int64 (tokens,) or (B, tokens), without the prompt.

    Raises:
        UsageError: an empty prompt, a token that the model does not know, a negative number of tokens or temperature.
    """
    assert isinstance(model, nn.Module)
    device = next(model.parameters()).device
    given = torch.tensor(list(prompt)) if not isinstance(prompt, Tensor) else prompt
    batch = given.reshape(1, -1) if given.ndim < 2 else given
    batch = batch.to(device)
    if batch.numel() == 0 or batch.ndim != 2 or batch.is_floating_point():
        raise UsageError(
            f"a prompt of shape {tuple(given.shape)}, needed are whole numbers, (T,) or (B, T), T above 0"
        )
    if int(batch.min()) < 0 or int(batch.max()) >= model.vocabulary:
        wrong = int(batch.max()) if int(batch.max()) >= model.vocabulary else int(batch.min())
        raise UsageError(
            f"token {wrong} in the prompt, "
            f"the model has a vocabulary of {model.vocabulary}: 0 to {model.vocabulary - 1}",
            hint="encode the prompt with the vocabulary that the model was trained with",
        )
    if tokens < 0 or not temperature >= 0:
        raise UsageError(f"{tokens} tokens at temperature {temperature}, needed are numbers of at least 0")
    generator = torch.Generator().manual_seed(derive_seed("generate", seed))
    training = model.training
    model.eval()
    try:
        session = Session(batch.shape[1] + tokens)
        found, following = [], batch
        for _ in range(tokens):
            logits = model.read(following, session)[:, -1]
            following = _chosen(logits, temperature, generator)[:, None]
            found.append(following)
    finally:
        model.train(training)
    new = torch.cat(found, 1) if found else batch[:, :0]
    return new[0] if given.ndim < 2 else new


def _chosen(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Token numbers (B,) by logits (B, vocabulary); drawn on the CPU, so that devices agree."""
    if temperature == 0:
        return logits.argmax(-1)
    shares = torch.softmax(logits.double().cpu() / temperature, -1)
    return torch.multinomial(shares, 1, generator=generator)[:, 0].to(logits.device)
