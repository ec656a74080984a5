"""An operation of your own: softsign, a / (1 + |a|).

Used in a search, where it becomes one more row of the space's table:

    evonas search --space norm_act --plugin examples/own_primitive.py --set 'space.extra_primitives=["softsign"]'

By itself, as a layer:

    python examples/own_primitive.py
"""

import evonas


@evonas.primitive(
    "softsign",
    # The adjoint of `a`, from the adjoint `g` of the result, in terms of other primitives.
    gradient=lambda ops, g, y, a: ops.div(g, ops.square(ops.add(ops.const(1.0), ops.abs(a)))),
    triton="{0} / (1.0 + tl.abs({0}))",
    latex=r"\mathrm{{softsign}}\left({0}\right)",
    source="Turian et al. 2009",
    flops=3,
)
def softsign(xp, a):
    """a / (1 + |a|)"""
    return a / (1.0 + xp.abs(a))


def main() -> None:
    import torch

    layer = evonas.layer("softsign(v1 * x) / rms[w,h,c/g](x)")
    module = layer.module(channels=16)
    y = module(torch.randn(2, 16, 8, 8))
    y.sum().backward()
    print(f"{layer}: {tuple(y.shape)}, gradient of v1 has norm {module.v1.grad.norm():.3f}")


if __name__ == "__main__":
    main()
