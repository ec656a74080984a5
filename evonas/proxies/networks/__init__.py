"""The networks of the proxies, each a function of (spec, make_layer, inputs, outputs)."""

from evonas.proxies.networks.blocks import ChannelAffine, MakeLayer
from evonas.proxies.networks.efficientnet import efficientnet
from evonas.proxies.networks.mobilenet import mobilenet
from evonas.proxies.networks.resnet import resnet
from evonas.proxies.networks.soft import soft
from evonas.proxies.networks.transformer import transformer
from evonas.proxies.networks.transnormer import transnormer

__all__ = [
    "ChannelAffine",
    "MakeLayer",
    "efficientnet",
    "mobilenet",
    "resnet",
    "soft",
    "transformer",
    "transnormer",
]
