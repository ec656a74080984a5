"""A search space of your own: layers without sigmoid, tanh, exp and log, over two index sets.

evonas list spaces --plugin examples/own_space.py
evonas search --space cheap_norm_act --plugin examples/own_space.py
python examples/own_space.py
"""

from evonas.search_spaces import SpaceOptions, get, space

space(
    "cheap_norm_act",
    layout="nchw",
    rows=("add", "sub", "mul", "div", "max", "min", "neg", "abs", "square", "mean", "rms", "std"),
    options=SpaceOptions(
        nodes=8,
        index_sets=("w,h", "w,h,c/g"),
        mutation_weights={"replace": 2.0, "insert": 1.0, "remove": 1.0, "rewire": 1.0},
    ),
    summary="normalization-activation layers without transcendental functions",
)


def main() -> None:
    from evonas.rng import Draws

    made = get("cheap_norm_act")
    print(made)
    for i in range(5):
        genotype = made.random(Draws("example", i))
        print(made.graph(genotype), "" if made.digest(genotype) else "(does not depend on x)")


if __name__ == "__main__":
    main()
