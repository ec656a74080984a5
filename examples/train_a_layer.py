"""A layer in a network of your own, and layers compared on a proxy with the same weights, data and budget.

python examples/train_a_layer.py
python examples/train_a_layer.py --steps 120 evonorm_s0 gn_relu relu "x * tanh(v1 * x) / rms[w,h](x)"
"""

import argparse

import torch
from torch import nn

import evonas
from evonas import proxies


def small_network(layer: evonas.Layer) -> nn.Module:
    """Two convolutions with the layer in place of norm and activation; any nn.Module can do the same."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, bias=False), layer.module(16),
        nn.Conv2d(16, 32, 3, bias=False), layer.module(32),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("layers", nargs="*", default=["evonorm_s0", "gn_relu", "relu"])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--proxy", default="resnet")
    given = parser.parse_args()

    proxies.configure_process(threads=1)
    network = small_network(evonas.layer(given.layers[0]))
    print(network(torch.randn(4, 1, 28, 28)).shape)

    proxy = proxies.get(given.proxy, steps=given.steps)
    for name in given.layers:
        layer = evonas.layer(name)
        # groups=4: the proxy's feature maps have few channels
        result = proxies.train(proxy, lambda channels, layer=layer: layer.module(channels, groups=4), seed=0)
        print(f"{result.score:.3f} validation accuracy, {result.seconds:.1f} s  {name}: {layer.formula}")


if __name__ == "__main__":
    main()
