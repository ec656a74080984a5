"""A search from Python, and what can be read from a run.

python examples/search_from_python.py
python examples/search_from_python.py --candidates 40 --workers 2
"""

import argparse
from collections import Counter

import evonas


class Progress:
    """An observer sees every event of a run; nothing that it does changes the run."""

    def event(self, event) -> None:
        if event.kind == "finished" and event.outcome == "scored" and event.arm != "rerank":
            print(f"{event.arm:<9}{event.candidate:>7}  {event.formula}")

    def tick(self, driver) -> None:
        """Called several times a second."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60, help="training steps per proxy")
    parser.add_argument("--out", default="runs")
    given = parser.parse_args()

    run = evonas.search(
        space="norm_act",
        candidates=given.candidates,
        workers=given.workers,
        seed=0,
        proxies=["resnet"],
        out=given.out,
        settings={
            "search.baselines": ["bn_relu", "relu"],
            "evaluation.changes": {"steps": given.steps, "quality_steps": given.steps // 2},
            "rerank.seeds": 1,
        },
        observers=(Progress(),),
    )
    print(f"\n{run}\n\nfront:")
    for row in run.front():
        print(f"  {row['mean']:.3f}  {row['formula']}")
    print("ranking on held-out images:")
    for row in run.ranking():
        print(f"  {row['mean']:.3f}  {row['name']:<14}{row['formula']}")
    table = run.table()  # pyarrow: pandas, polars and duckdb read it
    print("outcomes:", dict(Counter(table.column("outcome").to_pylist())))


if __name__ == "__main__":  # slots are processes of their own that may import this file
    main()
