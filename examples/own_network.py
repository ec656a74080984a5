"""A network of your own as a proxy: a plain stack of convolutions.

evonas list proxies --plugin examples/own_network.py
evonas search --space norm_act --plugin examples/own_network.py --proxies plain_stack
python examples/own_network.py
"""

from evonas.proxies import ProxySpec, proxy

SCALES = {
    "tiny": ProxySpec("plain_stack", width=1.0, depth=(8,), crop=24, pool=2, batch=32, steps=120, lr=0.05,
                      eval_batch=100, stability_steps=10, stability_batch=8),
}  # fmt: skip


@proxy("plain_stack", scales=SCALES)
def plain_stack(spec, make_layer, in_channels, classes):
    """`make_layer(channels)` stands wherever a norm and an activation would."""
    from torch import nn  # only where a network is built: listing proxies stays quick

    channels = round(16 * spec.width)
    parts = [nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)]
    for _ in range(spec.depth[0]):
        parts += [make_layer(channels), nn.Conv2d(channels, channels, 3, padding=1, bias=False)]
    parts += [make_layer(channels), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return nn.Sequential(*parts)


def main() -> None:
    import evonas
    from evonas import proxies

    layer = evonas.layer("gn_relu")
    made = proxies.get("plain_stack", steps=10)
    result = proxies.train(made, lambda channels: layer.module(channels, groups=4))
    print(f"{layer.name} on plain_stack: accuracy {result.score:.3f} after {result.steps} steps")


if __name__ == "__main__":
    main()
