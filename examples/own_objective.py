"""An objective of your own: accuracy on darkened images, beside accuracy on clean ones.

A search maximises whatever scores an evaluator returns, one objective per name in ``evaluation.proxies``. This one
trains the small ResNet once and scores it twice, so the front trades accuracy for robustness.

    evonas search --space norm_act --plugin examples/own_objective.py \
        --set evaluation.evaluator=robust --set 'evaluation.proxies=["clean", "dark"]' --candidates 20
    python examples/own_objective.py
    python examples/own_objective.py --steps 120 bn_relu evonorm_s0 "x / rms[w,h](x)"
"""

import argparse
from functools import partial

import numpy as np

import evonas
from evonas import data, proxies
from evonas.data import Split
from evonas.evaluation.protocol import Outcome
from evonas.evaluation.registry import evaluator
from evonas.layers import candidate_from
from evonas.proxies import Trainer

#: what is left of the light
DARK = 0.35


def darkened(split):
    """The same images with less light, and the same labels."""
    return Split(np.round(split.images * DARK).astype(np.uint8), split.labels)


class Robust:
    """Lives in a slot. Takes a list of tasks, returns a list of outcomes in the same order."""

    def __init__(self, steps=None):
        whole = data.load()
        changes = {} if steps is None else {"steps": steps}
        self.proxy = proxies.get("resnet", data=whole, **changes)
        # the search is scored on validation images, the final ranking on images that it never saw
        self.splits = {
            mode: {"clean": split, "dark": darkened(split)}
            for mode, split in (("funnel", whole.validation), ("final", whole.heldout))
        }

    def evaluate(self, tasks):
        return [self.one(task.candidate, task.formula, task.seed, task.mode, task.budget) for task in tasks]

    def one(self, candidate, formula, seed=0, mode="funnel", budget=1.0):
        layer = candidate_from(formula, "candidate")
        trainer = Trainer(self.proxy, partial(layer.module, backend="eager"), seed=seed, budget=budget)
        trainer.run()
        if trainer.diverged_at is not None:
            return Outcome(candidate, "rejected", stage="training", reason="diverged")
        scores = {name: trainer.accuracy(split) for name, split in self.splits[mode].items()}
        return Outcome(candidate, "scored", scores=scores)


@evaluator("robust", imports=("torch", "evonas.proxies.trainer"))
def build(**options):
    return Robust(**options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("layers", nargs="*", default=["bn_relu", "evonorm_s0"])
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    robust = Robust(steps=given.steps)
    for number, name in enumerate(given.layers):
        outcome = robust.one(number, evonas.layer(name).formula)
        print(f"{name:<24}", outcome.scores or outcome.reason)


if __name__ == "__main__":
    main()
