"""An evaluator of your own: scores a layer without training anything.

It sends a batch through many random matrices with the layer between them, and scores how well different
inputs stay apart. It needs numpy alone, so thousands of candidates take seconds.

    evonas search --space norm_act --plugin examples/own_evaluator.py \
        --set evaluation.evaluator=apart --set 'evaluation.proxies=["shallow", "deep"]'
    python examples/own_evaluator.py
"""

import numpy as np

from evonas.evaluation.protocol import Outcome
from evonas.evaluation.registry import evaluator
from evonas.graph import NCHW, Graph
from evonas.graph.analysis import evaluator as as_function

DEPTHS = {"shallow": 4, "deep": 16}


class Apart:
    """Lives in a slot. Takes a list of tasks, returns a list of outcomes in the same order."""

    def evaluate(self, tasks):
        return [self.one(task) for task in tasks]

    def one(self, task):
        layer = as_function(Graph.parse(task.formula), NCHW)
        scores = {name: self.score(layer, depth, task.seed) for name, depth in DEPTHS.items()}
        if not all(np.isfinite(list(scores.values()))):
            return Outcome(
                task.candidate, "rejected", attempt=task.attempt, stage="apart", reason="not finite"
            )
        return Outcome(task.candidate, "scored", attempt=task.attempt, scores=scores)

    def score(self, layer, depth, seed):
        """1 when the inputs are as far apart after ``depth`` layers as before, 0 when they have met."""
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(8, 2, 4, 3, 3))  # batch, groups, channels of a group, height, width
        for _ in range(depth):
            mixing = rng.normal(size=(8, 8)) / np.sqrt(8)
            flat = layer(x).reshape(8, 8, 9)
            x = np.einsum("oc,bcs->bos", mixing, flat).reshape(x.shape)
        vectors = x.reshape(8, -1)
        with np.errstate(all="ignore"):
            cosines = np.corrcoef(vectors)[np.triu_indices(8, 1)]
        return float(1.0 - np.abs(cosines).mean())


@evaluator("apart", imports=("numpy",))
def build(**options):
    return Apart()


def main() -> None:
    import evonas
    from evonas.evaluation.protocol import Task

    for name in ("relu", "gn_relu", "evonorm_s0", "identity"):
        outcome = Apart().one(Task(0, evonas.layer(name).formula))
        print(f"{name:<12}" + "".join(f"{p} {score:.3f}  " for p, score in outcome.scores.items()))


if __name__ == "__main__":
    main()
