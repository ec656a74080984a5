"""An evaluator without training: scores are digests of formula and seed. Options: delay in seconds, reject."""

import hashlib
import time

from evonas.evaluation.protocol import Outcome
from evonas.evaluation.registry import evaluator

PROXIES = ("resnet", "mobilenet", "efficientnet")


class Hashed:
    def __init__(self, delay=0.0, reject=False):
        self.delay, self.reject = delay, reject

    def evaluate(self, tasks):
        return [self.one(task) for task in tasks]

    def one(self, task):
        time.sleep(self.delay)
        if self.reject:
            return Outcome(
                task.candidate, "rejected", attempt=task.attempt, stage="quality", reason="low_accuracy"
            )
        digest = hashlib.blake2b(f"{task.formula}{task.seed}".encode()).digest()
        scores = {p: digest[i] / 255 for i, p in enumerate(PROXIES)}
        return Outcome(task.candidate, "scored", attempt=task.attempt, scores=scores)


@evaluator("hashed", imports=())
def build(**options):
    return Hashed(**options)
