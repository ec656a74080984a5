"""Proxies by name: the three anchors of the paper and the user's own. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from evonas.data.registry import load
from evonas.data.types import Dataset, SearchView
from evonas.errors import PluginError, unknown_name
from evonas.plugins import check_registration, entry_point_names, load_entry_point, origin
from evonas.proxies.spec import SCALES, ProxySpec

#: (spec, make_layer, in_channels, classes) -> torch.nn.Module from (N, in_channels, H, W) to logits.
Network = Callable[..., Any]
ENTRY_POINTS = "evonas.proxies"
BUILTIN = ("resnet", "mobilenet", "efficientnet")


@dataclass(frozen=True, slots=True)
class Proxy:
    """Architecture x data set x budget: all that is needed to train one candidate once."""

    name: str
    scale: str
    spec: ProxySpec
    data: SearchView
    network: Network

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1.0 / len(self.data.classes)


@dataclass(frozen=True, slots=True)
class _Entry:
    network: Network
    scales: Mapping[str, ProxySpec]
    data: str | None


_ENTRIES: dict[str, _Entry] = {}


def proxy(
    name: str, *, scales: Mapping[str, ProxySpec] | None = None, data: str | None = None
) -> Callable[[Network], Network]:
    """Register a network ``f(spec, make_layer, in_channels, classes) -> nn.Module`` as a proxy.

    It must call ``make_layer(channels)`` at every place where a norm and an activation would stand.
    ``scales`` gives its budgets (None: those of ``resnet``), ``data`` the data set it is trained on when
    the caller names none. Raises PluginError for the name of an anchor, and for a name that another
    function has; the same function of the same module may be registered again.
    """

    def register(network: Network) -> Network:
        if name in BUILTIN:
            raise PluginError(
                f"the proxy {name!r} of {origin(network)} has the name of evonas.proxies.networks:{name}",
                hint="rename it, for example with a prefix of your own",
            )
        if name in _ENTRIES:
            check_registration("proxy", name, network, _ENTRIES[name].network)
        table = SCALES_OF_RESNET if scales is None else dict(scales)
        _ENTRIES[name] = _Entry(network, table, data)
        return network

    return register


SCALES_OF_RESNET = {scale: specs["resnet"] for scale, specs in SCALES.items()}


def names() -> list[str]:
    """Every proxy that ``get`` knows: the anchors first, then the others by name."""
    return [*BUILTIN, *sorted({*_ENTRIES, *entry_point_names(ENTRY_POINTS)} - set(BUILTIN))]


def _entry(name: str) -> _Entry:
    if name in BUILTIN and name not in _ENTRIES:
        from evonas.proxies import networks

        specs = {scale: table[name] for scale, table in SCALES.items()}
        _ENTRIES[name] = _Entry(getattr(networks, name), specs, None)
    if name not in _ENTRIES:
        network = load_entry_point(ENTRY_POINTS, name)
        if name not in _ENTRIES and network is not None:
            proxy(name)(network)
    if name not in _ENTRIES:
        raise unknown_name("proxy", name, names())
    return _ENTRIES[name]


def data_name(name: str) -> str | None:
    """The data set that ``@proxy(name, data=...)`` named; None where it named none, as for the anchors.

    Raises UsageError for an unknown proxy. Imports no torch for the anchors.
    """
    return None if name in BUILTIN else _entry(name).data


def get(
    name: str, scale: str = "tiny", data: Dataset | SearchView | str | None = None, **changes: Any
) -> Proxy:
    """The proxy ``name`` at ``scale`` on ``data`` (a name, a loaded set, or None for the default).

    ``changes`` replace fields of its ``ProxySpec``. Raises UsageError for unknown names and fields.
    """
    entry = _entry(name)
    if scale not in entry.scales:
        raise unknown_name(f"scale of proxy {name!r}", scale, entry.scales)
    spec = entry.scales[scale].replace(**changes)
    source = entry.data if data is None else data
    if source is None:
        source = load()
    elif isinstance(source, str):
        source = load(source)
    view = source.search_view() if isinstance(source, Dataset) else source
    return Proxy(name, scale, spec, view, entry.network)
