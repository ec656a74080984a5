"""What a layer with state declares: buffers, warm-up, train formula, eval formula and gradient rule, separately.

A graph says one thing for training and evaluation, and its gradient follows from it. A layer with state may do
something else in evaluation, something else again while it warms up, and may have a backward pass that is not the
derivative of its forward pass. Each of these is declared by itself. Importing this does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Buffer:
    """A tensor that a layer keeps from step to step.

    name: its key in the ``state_dict``. shape: sizes as numbers or names: "C" for the channels, "g" and "k" for
    groups and channels of one, any other name for a size that the layer gives. initial: what every element starts
    at. meaning: what it holds and how it is updated. counter: an int64 that counts, else a float that is
    float32 or wider.
    """

    name: str
    shape: tuple[str | int, ...]
    initial: float
    meaning: str
    counter: bool = False

    def __str__(self) -> str:
        sizes = ", ".join(map(str, self.shape))
        shape = f"({sizes},)" if len(self.shape) == 1 else f"({sizes})"
        return f"{self.name} {shape}, starts at {self.initial:g}: {self.meaning}"


@dataclass(frozen=True, slots=True)
class StateContract:
    """The five parts of a layer with state, in words and formulas, and two facts that a test can check.

    buffers: all of them. warm_up: for how long and in what training differs at the beginning. train_formula,
    eval_formula: y from x. gradient_rule: what goes back, to x and to the affine. derivative: whether the backward
    pass is the derivative of the train formula; where it is not, finite differences say nothing and a test compares
    with the published recursion instead. affine_at_eval: whether evaluation is ``scale * x + shift`` per channel;
    ``not_affine`` says why it is not.
    """

    buffers: tuple[Buffer, ...]
    warm_up: str
    train_formula: str
    eval_formula: str
    gradient_rule: str
    derivative: bool
    affine_at_eval: bool
    not_affine: str = ""
    notes: tuple[str, ...] = field(default=())

    def lines(self) -> list[tuple[str, str]]:
        """Pairs (heading, text) for people."""
        rows = [("buffers" if n == 0 else "", str(buffer)) for n, buffer in enumerate(self.buffers)]
        backward = (
            "is the derivative of the train formula"
            if self.derivative
            else "is not the derivative of the train formula"
        )
        fold = "affine per channel: folds into a neighbouring linear map or convolution"
        return [
            *rows,
            ("warm-up", self.warm_up),
            ("training", self.train_formula),
            ("evaluation", self.eval_formula),
            ("gradient", self.gradient_rule),
            ("backward", backward),
            ("folding", fold if self.affine_at_eval else f"not affine at evaluation: {self.not_affine}"),
            *(("note", note) for note in self.notes),
        ]
