"""Plain-Python yardsticks for the search loop: what a short program with the same duties costs.

``plain_re``: regularized evolution (population 100, tournament 10) over graphs of 4 inputs and 10
operation nodes with 20 binary primitives, 30 integer decisions in all, with a memoised structural key
(Python's hash of nested tuples) that spares a known structure its evaluation. ``plain_full`` adds what
a durable search needs: a 128-bit key of the live nodes that is equal in every process, the graph as
JSON, and one row per candidate in an Arrow stream, one batch and one fsync per 100 rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

INPUTS, NODES, OPS = 4, 10, 20
#: the primitives whose two arguments commute.
COMMUTATIVE = frozenset(range(0, OPS, 3))
POPULATION, TOURNAMENT = 100, 10

Genome = tuple[tuple[int, int, int], ...]


def random_genome(rng: random.Random) -> Genome:
    return tuple(
        (rng.randrange(OPS), rng.randrange(INPUTS + i), rng.randrange(INPUTS + i)) for i in range(NODES)
    )


def mutate(genome: Genome, rng: random.Random) -> Genome:
    """Redraw the primitive and both arguments of one node."""
    i = rng.randrange(NODES)
    node = (rng.randrange(OPS), rng.randrange(INPUTS + i), rng.randrange(INPUTS + i))
    return (*genome[:i], node, *genome[i + 1 :])


def hash_key(genome: Genome) -> int:
    """64 bits from the bottom up: equal for equal expressions of the output, commutative arguments sorted."""
    keys: list[int] = list(range(INPUTS))
    for op, a, b in genome:
        ka, kb = keys[a], keys[b]
        if op in COMMUTATIVE and ka > kb:
            ka, kb = kb, ka
        keys.append(hash((op, ka, kb)))
    return keys[-1]


def digest_key(genome: Genome) -> bytes:
    """128 bits over the live nodes alone, stable across processes and versions."""
    live = {INPUTS + NODES - 1}
    for i in range(NODES - 1, -1, -1):
        if INPUTS + i in live:
            live.update(genome[i][1:])
    keys: dict[int, bytes] = {i: b"%d" % i for i in range(INPUTS)}
    for i, (op, a, b) in enumerate(genome):
        if INPUTS + i in live:
            ka, kb = keys[a], keys[b]
            if op in COMMUTATIVE and ka > kb:
                ka, kb = kb, ka
            keys[INPUTS + i] = hashlib.blake2b(b"%d|" % op + ka + kb, digest_size=16).digest()
    return keys[INPUTS + NODES - 1]


def fitness(genome: Genome) -> float:
    """Free: a few integer operations over the decisions."""
    value = 0
    for op, a, b in genome:
        value = (value * 31 + op * 7 + a * 3 + b) & 0xFFFF
    return value / 0xFFFF


class _Rows:
    """One Arrow stream; a batch of 100 rows, then flush and fsync."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self._pa = pa
        self._schema = pa.schema(
            [("id", pa.int64()), ("key", pa.binary(16)), ("graph", pa.string()), ("fitness", pa.float64())]
        )
        self._file = path.open("wb")
        self._writer = pa.ipc.new_stream(self._file, self._schema)
        self._columns: tuple[list[Any], ...] = ([], [], [], [])

    def add(self, *row: Any) -> None:
        for column, value in zip(self._columns, row, strict=True):
            column.append(value)
        if len(self._columns[0]) == 100:
            self.flush()

    def flush(self) -> None:
        pa = self._pa
        arrays = [pa.array(c, f.type) for c, f in zip(self._columns, self._schema, strict=True)]
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        self._file.flush()
        os.fsync(self._file.fileno())
        for column in self._columns:
            column.clear()

    def close(self) -> None:
        self.flush()
        self._writer.close()
        self._file.close()


def _evolve(candidates: int, evaluate: Callable[[int, Genome], float], tick: Callable[[int], None]) -> None:
    rng = random.Random(0)
    population: deque[tuple[float, Genome]] = deque(maxlen=POPULATION)
    for i in range(candidates):
        if len(population) < POPULATION:
            genome = random_genome(rng)
        else:
            genome = mutate(max(rng.sample(population, TOURNAMENT))[1], rng)
        population.append((evaluate(i, genome), genome))
        tick(i)


def plain_re(candidates: int, tick: Callable[[int], None]) -> None:
    """Regularized evolution with a memo by ``hash_key``."""
    memo: dict[int, float] = {}

    def evaluate(i: int, genome: Genome) -> float:
        key = hash_key(genome)
        value = memo.get(key)
        if value is None:
            value = memo[key] = fitness(genome)
        return value

    _evolve(candidates, evaluate, tick)


def plain_full(candidates: int, tick: Callable[[int], None], folder: Path) -> None:
    """``plain_re`` with the stable key and the durable log."""
    memo: dict[bytes, float] = {}
    rows = _Rows(folder / "plain.arrows")

    def evaluate(i: int, genome: Genome) -> float:
        key = digest_key(genome)
        value = memo.get(key)
        if value is None:
            value = memo[key] = fitness(genome)
        rows.add(i, key, json.dumps(genome), value)
        return value

    _evolve(candidates, evaluate, tick)
    rows.close()
