"""The three anchor networks, each a function of (spec, make_layer, in_channels, classes)."""

from evonas.proxies.networks.blocks import ChannelAffine, MakeLayer
from evonas.proxies.networks.efficientnet import efficientnet
from evonas.proxies.networks.mobilenet import mobilenet
from evonas.proxies.networks.resnet import resnet

__all__ = ["ChannelAffine", "MakeLayer", "efficientnet", "mobilenet", "resnet"]
