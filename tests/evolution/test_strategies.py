"""What holds for every strategy: determinism, purity, checks, options, bounded memory."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from byte_space import ByteSpace, scores_of
from hypothesis import given, settings
from hypothesis import strategies as st

import evonas.evolution
from evonas.errors import UsageError
from evonas.evolution import make_strategy, strategy_names, strategy_options
from evonas.evolution._base import BaseStrategy

SMALL = {
    "ageing": {"window": 20, "initial": 6},
    "nsga2": {"population": 8},
    "random": {"window": 10},
}
names = pytest.mark.parametrize("name", ["ageing", "nsga2", "random"])


def make(name: str, seed: int = 1, arm: str = "search") -> BaseStrategy:
    return make_strategy(name, ByteSpace(), seed, arm, SMALL[name])


def step(strategy: BaseStrategy, candidate: int) -> bytes:
    proposal = strategy.ask(candidate)
    scores = None if proposal.genotype[0] < 40 else scores_of(proposal.genotype)
    strategy.tell(candidate, proposal.genotype, scores)
    return proposal.genotype


def test_the_three_names() -> None:
    assert strategy_names() == ["ageing", "nsga2", "random"]


@names
def test_a_fold_over_the_tells_rebuilds_the_state(name: str) -> None:
    live = make(name)
    tells = []
    for candidate in range(120):
        genotype = step(live, candidate)
        tells.append((candidate, genotype, None if genotype[0] < 40 else scores_of(genotype)))
    again = make(name)
    digests = {again.state_digest()}
    for tell in tells:
        again.tell(*tell)
        digests.add(again.state_digest())
    assert again.state_digest() == live.state_digest()
    assert len(digests) == 121
    assert [again.ask(i) for i in range(200, 260)] == [live.ask(i) for i in range(200, 260)]
    assert again.population() == live.population()
    assert again.front() == live.front()


@names
def test_asking_changes_nothing(name: str) -> None:
    strategy = make(name)
    for candidate in range(50):
        step(strategy, candidate)
    before = strategy.state_digest()
    first = [strategy.ask(i) for i in range(50, 80)]
    second = [strategy.ask(i) for i in reversed(range(50, 80))]
    assert first == second[::-1]
    assert strategy.state_digest() == before


@names
def test_seed_and_arm_change_the_proposals(name: str) -> None:
    asked = {make(name, seed, arm).ask(0).genotype for seed in (1, 2) for arm in ("search", "control")}
    assert len(asked) == 4


@names
@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(16)))
def test_answers_may_come_in_any_order(name: str, order: list[int]) -> None:
    """Sixteen in flight, answered in any order: the state depends on that order alone."""
    one, two = make(name), make(name)
    for strategy in (one, two):
        asked = [strategy.ask(i).genotype for i in range(16)]
        for candidate in order:
            strategy.tell(candidate, asked[candidate], scores_of(asked[candidate]))
    assert one.state_digest() == two.state_digest()
    assert {m.candidate for m in one.population()} <= set(range(16))
    assert one.ask(16) == two.ask(16)


@names
@pytest.mark.parametrize("bad", [(0.5, float("nan"), 0.1), (float("inf"), 0.0, 0.0), (), (0.1, 0.2)])
def test_bad_scores_are_refused_and_change_nothing(name: str, bad: tuple[float, ...]) -> None:
    strategy = make(name)
    strategy.tell(0, b"g", (0.1, 0.2, 0.3))
    before = strategy.state_digest()
    with pytest.raises(ValueError, match="scores"):
        strategy.tell(1, b"h", bad)
    assert strategy.state_digest() == before


@names
def test_the_state_stays_bounded(name: str) -> None:
    strategy = make_strategy(name, ByteSpace(), 1, "search", {**SMALL[name], "front_limit": 8})
    for candidate in range(600):
        x = (candidate * 37 % 600) / 600
        strategy.tell(candidate, b"g", (x, 1 - x))
    assert len(strategy.population()) <= 20
    assert len(strategy.front()) <= 10


@names
def test_an_unknown_option_names_the_nearest(name: str) -> None:
    with pytest.raises(UsageError, match="did you mean 'front_limit'"):
        make_strategy(name, ByteSpace(), 0, "search", {"frontlimit": 3})


def test_an_unknown_strategy_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'ageing'"):
        make_strategy("aging", ByteSpace(), 0, "search")


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("ageing", "window", 0),
        ("ageing", "window", "many"),
        ("ageing", "window", True),
        ("ageing", "tournament", 0.0),
        ("ageing", "tournament", 1.5),
        ("ageing", "tournament", 0),
        ("ageing", "p_random", 1.1),
        ("ageing", "p_random", "half"),
        ("ageing", "selection", "best"),
        ("ageing", "initial", -1),
        ("ageing", "keep_rejected", "no"),
        ("ageing", "preset", "big"),
        ("nsga2", "population", 1),
        ("nsga2", "p_random", float("nan")),
        ("random", "window", 2.5),
    ],
)
def test_options_out_of_range_are_usage_errors(name: str, option: str, value: object) -> None:
    with pytest.raises(UsageError, match=option):
        make_strategy(name, ByteSpace(), 0, "search", {option: value})


def test_options_are_resolved_from_the_preset() -> None:
    assert strategy_options("ageing", {"preset": "paper", "window": 500})["initial"] == 2500
    assert strategy_options("ageing", {"preset": "paper", "window": 500})["window"] == 500
    assert strategy_options("ageing")["window"] == 100
    assert strategy_options("nsga2")["population"] == 50


_IN_A_PROCESS = """
import sys
sys.path.insert(0, {tests!r})
from test_strategies import make, step
for name in ("ageing", "nsga2", "random"):
    strategy = make(name)
    for candidate in range(150):
        step(strategy, candidate)
    print(name, strategy.state_digest(), strategy.ask(150).genotype.hex())
"""


def test_the_hash_seed_of_the_process_changes_nothing() -> None:
    here = str(Path(__file__).parent)
    outputs = set()
    for hash_seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", _IN_A_PROCESS.format(tests=here)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.add(done.stdout)
    assert len(outputs) == 1
    assert len(outputs.pop().splitlines()) == 3


def test_importing_the_core_pulls_in_nothing_heavy() -> None:
    code = (
        "import sys, evonas.evolution; "
        "print([m for m in ('torch', 'ray', 'triton', 'numpy', 'moocore', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_source_has_no_clock_and_no_other_randomness() -> None:
    forbidden = {"random", "time", "datetime", "uuid", "secrets", "os", "pickle", "torch", "ray"}
    files = sorted(Path(evonas.evolution.__file__).parent.glob("*.py"))
    assert len(files) >= 10
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"hash", "id", "eval", "exec", "set"}, (file.name, node.lineno)
            assert not {m.split(".")[0] for m in modules} & forbidden, (file.name, modules)
