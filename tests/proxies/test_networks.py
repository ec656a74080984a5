"""The anchor networks against the published sizes, and initial weights that no layer can change."""

import pytest
import torch
from reference_layers import EvoNormS0, Identity
from torch import nn

import evonas.proxies as proxies
from evonas.errors import PluginError, UsageError
from evonas.proxies import networks
from evonas.proxies.spec import EFFICIENTNET_B0, MOBILENET_V2, RESNET50, SCALES, ProxySpec

FULL = {"crop": 24, "batch": 8, "steps": 1, "lr": 0.1, "strides": (2, 2, 2, 2, 2)}

# Trainable parameters at full width with an ImageNet head: MobileNetV2 and EfficientNet-B0 as in
# torchvision, pre-activation ResNet-50 as in timm (resnetv2_50).
PUBLISHED = {
    "resnet": (RESNET50, 25_549_352),
    "mobilenet": (MOBILENET_V2, 3_504_872),
    "efficientnet": (EFFICIENTNET_B0, 5_288_548),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_full_width_has_the_published_number_of_parameters(name):
    depth, count = PUBLISHED[name]
    with torch.device("meta"):
        network = getattr(networks, name)(ProxySpec(name, 1.0, depth, **FULL), nn.BatchNorm2d, 3, 1000)
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize(("name", "sites"), [("resnet", 49), ("mobilenet", 35), ("efficientnet", 33)])
def test_layer_sites_of_the_paper_scale(name, sites):
    proxy = proxies.get(name, "paper")
    built = proxies.build(proxy, Identity, 0)
    assert len(built.sites) == sites
    maps = []
    for module in built.network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, i, o: maps.append(o.shape[-1]))
    with torch.no_grad():
        built.network(torch.zeros(1, 1, 32, 32))
    assert maps[0] == 32
    assert maps[-1] == 4  # three of the five reductions are left


@pytest.mark.parametrize("name", proxies.names()[:3])
@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_trains_and_validates_at_its_resolutions(name, scale):
    proxy = proxies.get(name, scale)
    network = proxies.build(proxy, EvoNormS0, 0).network
    side = proxy.spec.crop // proxy.spec.pool
    logits = network(torch.randn(2, 1, side, side))
    assert logits.shape == (2, 10)
    logits.sum().backward()
    missing = [n for n, p in network.named_parameters() if p.grad is None and not n.endswith("v0")]
    assert missing == []


class Greedy(nn.Module):
    """A layer whose constructor and parameters draw from torch's global generator."""

    def __init__(self, channels):
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 1)
        torch.randn(1000)

    def forward(self, x):
        return self.mix(x)


@pytest.mark.parametrize("name", proxies.names()[:3])
def test_initial_weights_depend_on_the_seed_alone(name):
    proxy = proxies.get(name)

    def weights(make_layer, seed):
        built = proxies.build(proxy, make_layer, seed)
        inside = {id(p) for site in built.sites for p in site.parameters()}
        return {n: p.detach() for n, p in built.network.named_parameters() if id(p) not in inside}

    torch.manual_seed(1)
    first = weights(Identity, 7)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    second, other = weights(Greedy, 7), weights(Identity, 8)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert not all(torch.equal(first[n], other[n]) for n in first)
    torch.set_rng_state(state)


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    proxies.build(proxies.get("resnet"), Greedy, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_weight_decay_spares_vectors_and_layers():
    built = proxies.build(proxies.get("efficientnet"), Greedy, 0)
    inside = {id(p) for site in built.sites for p in site.parameters()}
    assert all(p.ndim > 1 and id(p) not in inside for p in built.decayed())
    assert len(built.decayed()) + len(built.undecayed()) == len(list(built.network.parameters()))
    assert sum(id(p) in inside for p in built.undecayed()) == len(inside)


def test_channel_affine_starts_as_the_identity():
    affine = networks.ChannelAffine(3)
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(affine(x), x)
    with torch.no_grad():
        affine.weight[1], affine.bias[2] = 2.0, 5.0
    assert torch.equal(affine(x)[:, 1], 2 * x[:, 1])
    assert torch.equal(affine(x)[:, 2], x[:, 2] + 5)


def test_a_layer_factory_must_return_a_module():
    with pytest.raises(UsageError, match=r"needed is a torch\.nn\.Module"):
        proxies.build(proxies.get("resnet"), lambda channels: torch.relu, 0)


def test_unknown_names_scales_and_fields():
    with pytest.raises(UsageError, match="unknown proxy 'resnext'"):
        proxies.get("resnext")
    with pytest.raises(UsageError, match="scale of proxy 'resnet' 'huge'"):
        proxies.get("resnet", "huge")
    with pytest.raises(UsageError, match="no field 'stepz'"):
        proxies.get("resnet", stepz=3)
    with pytest.raises(UsageError, match="steps is 0"):
        proxies.get("resnet", steps=0)


@pytest.mark.parametrize(
    ("field", "value", "needed"),
    [
        ("steps", "abc", "a whole number, at least 1"),
        ("batch", True, "a whole number, at least 1"),
        ("quality_steps", -5, "a whole number, at least 1"),
        ("stability_steps", -1, "a whole number, at least 0"),
        ("kernel_limit", 3.0, "a whole number, at least 1"),
        ("lr", float("nan"), "a number above 0"),
        ("width", "1/4", "a number above 0"),
        ("quality_threshold", -0.5, "a number, at least 0"),
        ("momentum", 1.0, "from 0 to below 1"),
        ("clip", 0, "a number above 0, or None"),
        ("nesterov", 1, "true or false"),
        ("schedule", ["cosine"], "one of constant, cosine"),
        ("depth", [1], "4 whole numbers: resnet has 4 stages"),
        ("depth", [1, 1, 0, 1], "whole numbers, each at least 1"),
        ("depth", 4, "a list of whole numbers"),
        ("strides", (2, 2), "five whole numbers"),
        ("crop", 23, "a multiple of pool, 2"),
        ("eval_crop", 25, "a multiple of pool, 2"),
        ("network", "foo", "cannot be changed"),
    ],
)
def test_a_spec_refuses_values_that_do_not_fit(field, value, needed):
    spec = proxies.SCALES["tiny"]["resnet"]
    with pytest.raises(UsageError, match=rf"^{field} is ") as caught:
        spec.replace(**{field: value})
    assert needed in caught.value.message


def test_a_spec_takes_lists_as_configuration_files_give_them():
    spec = proxies.SCALES["tiny"]["mobilenet"].replace(
        depth=[1] * 7, lr=1, eval_crop=None, network="mobilenet"
    )
    assert spec.depth == (1,) * 7
    assert spec == proxies.ProxySpec(**spec.to_dict())


def test_a_name_belongs_to_one_network():
    def network(spec, make_layer, in_channels, classes):
        return make_layer(in_channels)

    def other(spec, make_layer, in_channels, classes):
        return make_layer(in_channels)

    with pytest.raises(
        PluginError, match=r"'resnet' of \S*network has the name of evonas\.proxies\.networks:resnet"
    ):
        proxies.proxy("resnet")(network)
    assert proxies.data_name("resnet") is None
    proxies.proxy("claimed_twice", data="cifar10")(network)
    proxies.proxy("claimed_twice", data="cifar10")(network)
    other.__module__ = "elsewhere"
    with pytest.raises(PluginError, match=r"twice: by \S+network and by elsewhere:\S+other"):
        proxies.proxy("claimed_twice")(other)
    assert proxies.data_name("claimed_twice") == "cifar10"
    with pytest.raises(UsageError, match="unknown proxy"):
        proxies.data_name("claimed_by_nobody")


def test_a_network_of_ones_own():
    @proxies.proxy("of_the_tests", data="fashion_mnist_small")
    def network(spec, make_layer, in_channels, classes):
        return nn.Sequential(
            nn.Conv2d(in_channels, 8, 3), make_layer(8), nn.Flatten(), nn.LazyLinear(classes)
        )

    assert "of_the_tests" in proxies.names()
    proxy = proxies.get("of_the_tests", lr=0.02)
    assert proxy.chance == pytest.approx(0.1)
    assert proxy.spec.lr == 0.02
    assert not hasattr(proxy.data, "heldout")
