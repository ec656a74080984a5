"""Proxies: small, hard-to-train networks on which candidates are trained and scored.

``get(name, scale)`` names one; ``Trainer`` trains a layer on it; ``quality_test`` and
``stability_test`` are the paper's two rejection tests. Names and specs come without torch; the rest
imports it when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from evonas.proxies.language_spec import LanguageSpec
from evonas.proxies.registry import (
    SCALES,
    Proxy,
    check_changes,
    data_name,
    data_of,
    get,
    kind,
    names,
    proxy,
)  # fmt: skip
from evonas.proxies.spec import ProxySpec

if TYPE_CHECKING:
    from evonas.proxies.building import build
    from evonas.proxies.networks.blocks import ChannelAffine, MakeLayer
    from evonas.proxies.problems import problem
    from evonas.proxies.screens import QualityVerdict, StabilityVerdict, quality_test, stability_test
    from evonas.proxies.trainer import Trainer, TrainResult, configure_process, train

__all__ = [
    "SCALES",
    "ChannelAffine",
    "LanguageSpec",
    "MakeLayer",
    "Proxy",
    "ProxySpec",
    "QualityVerdict",
    "StabilityVerdict",
    "TrainResult",
    "Trainer",
    "build",
    "check_changes",
    "configure_process",
    "data_name",
    "data_of",
    "get",
    "kind",
    "names",
    "problem",
    "proxy",
    "quality_test",
    "stability_test",
    "train",
]

_LAZY = {
    "build": "building",
    "ChannelAffine": "networks.blocks",
    "MakeLayer": "networks.blocks",
    "problem": "problems",
    "QualityVerdict": "screens",
    "StabilityVerdict": "screens",
    "quality_test": "screens",
    "stability_test": "screens",
    "TrainResult": "trainer",
    "Trainer": "trainer",
    "configure_process": "trainer",
    "train": "trainer",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
