"""Proxies by name: the three anchors of the paper, language models, and the user's own. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evonas.data.registry import DEFAULT, DEFAULTS, load
from evonas.data.text import TextData, TextView
from evonas.data.types import Dataset, SearchView
from evonas.errors import PluginError, UsageError, unknown_name
from evonas.plugins import check_registration, entry_point_names, load_entry_point, origin
from evonas.proxies.language_spec import LANGUAGE_SCALES, LanguageSpec
from evonas.proxies.spec import SCALES as IMAGE_SCALES
from evonas.proxies.spec import ProxySpec

#: (spec, make_layer, in_channels, classes) -> torch.nn.Module from (N, in_channels, H, W) to logits; of kind "text",
#: (spec, make_layer, vocabulary, vocabulary) from (N, T) token numbers to logits (N, T, vocabulary).
Network = Callable[..., Any]
AnySpec = ProxySpec | LanguageSpec
Data = Dataset | TextData | SearchView | TextView
ENTRY_POINTS = "evonas.proxies"
ANCHORS = ("resnet", "mobilenet", "efficientnet")
LANGUAGE = ("transformer", "transnormer")
#: vision with attention: images, whose layers are given tokens.
VISION = ("soft",)
BUILTIN = (*ANCHORS, *LANGUAGE, *VISION)
#: what is trained on what, and what its layers are given.
LAYOUTS = {"image": "nchw", "text": "btc"}
#: specs by scale and name. Language models know no ``paper_b``: it is ``paper`` for them.
SCALES: dict[str, dict[str, Any]] = {
    scale: {**specs, **LANGUAGE_SCALES.get(scale, LANGUAGE_SCALES["paper"])}
    for scale, specs in IMAGE_SCALES.items()
}


@dataclass(frozen=True, slots=True)
class Proxy:
    """Architecture x data set x budget: all that is needed to train one candidate once.

    ``kind``: "image" or "text". ``layout``: "nchw" or "btc", of the tensors that its layers are given.
    """

    name: str
    scale: str
    spec: Any
    data: SearchView | TextView
    network: Network
    kind: str = "image"
    layout: str = "nchw"

    @property
    def chance(self) -> float:
        """Score of guessing: accuracy for images; for text 0, which is eight bits per byte."""
        return 1.0 / len(self.data.classes) if isinstance(self.data, SearchView) else 0.0

    @property
    def unit(self) -> str:
        """What a score is made of: "accuracy" or "bits_per_byte"."""
        return "bits_per_byte" if self.kind == "text" else "accuracy"


@dataclass(frozen=True, slots=True)
class _Entry:
    network: Network
    scales: Mapping[str, AnySpec]
    data: str | None
    kind: str
    layout: str


_ENTRIES: dict[str, _Entry] = {}


def proxy(
    name: str,
    *,
    scales: Mapping[str, AnySpec] | None = None,
    data: str | None = None,
    kind: str = "image",
    layout: str | None = None,
) -> Callable[[Network], Network]:
    """Register a network ``f(spec, make_layer, in_channels, classes) -> nn.Module`` as a proxy.

    It must call ``make_layer(channels)`` at every place where a norm and an activation would stand.
    ``scales`` gives its budgets (None: those of ``resnet``, or of ``transformer``), ``data`` the data set it is trained
    on when the caller names none. With ``kind="text"`` it is a language model ``f(spec, make_layer, vocabulary,
    vocabulary)``. ``layout``: of the tensors that its layers are given, "nchw" for images and "btc" for text where
    nothing is said; a network whose layers are given tokens calls ``make_layer(channels, slot)`` with a name of
    ``evonas.graph.slots``, and puts a layer of its own where that returns None.

    Raises PluginError for the name of a built-in proxy, for a name that another function has (the same function of
    the same module may be registered again), and for an unknown kind or layout.
    """
    if kind not in LAYOUTS or layout not in (None, *LAYOUTS.values()):
        raise PluginError(
            f"proxy {name!r} has kind {kind!r} and layout {layout!r}, needed are image or text, nchw or btc"
        )

    def register(network: Network) -> Network:
        if name in BUILTIN:
            raise PluginError(
                f"the proxy {name!r} of {origin(network)} has the name of evonas.proxies.networks:{name}",
                hint="rename it, for example with a prefix of your own",
            )
        if name in _ENTRIES:
            check_registration("proxy", name, network, _ENTRIES[name].network)
        model = {"image": "resnet", "text": "transformer"}[kind]
        table = {scale: specs[model] for scale, specs in SCALES.items()} if scales is None else dict(scales)
        _ENTRIES[name] = _Entry(network, table, data, kind, layout or LAYOUTS[kind])
        return network

    return register


def names() -> list[str]:
    """Every proxy that ``get`` knows: the anchors first, then the others by name."""
    return [*BUILTIN, *sorted({*_ENTRIES, *entry_point_names(ENTRY_POINTS)} - set(BUILTIN))]


def _entry(name: str) -> _Entry:
    if name in BUILTIN and name not in _ENTRIES:
        from evonas.proxies import networks

        specs = {scale: table[name] for scale, table in SCALES.items()}
        kind = "text" if name in LANGUAGE else "image"
        _ENTRIES[name] = _Entry(getattr(networks, name), specs, None, kind, layout(name))
    if name not in _ENTRIES:
        network = load_entry_point(ENTRY_POINTS, name)
        if name not in _ENTRIES and network is not None:
            proxy(name)(network)
    if name not in _ENTRIES:
        raise unknown_name("proxy", name, names())
    return _ENTRIES[name]


def kind(name: str) -> str:
    """ "image" or "text". Raises UsageError for an unknown proxy. Imports no torch for the built-in ones."""
    if name in BUILTIN:
        return "text" if name in LANGUAGE else "image"
    return _entry(name).kind


def layout(name: str) -> str:
    """ "nchw" or "btc", of the tensors that the layers of a proxy are given. Raises UsageError for an unknown proxy.
    Imports no torch for the built-in ones."""
    if name in BUILTIN:
        return "btc" if name in VISION else LAYOUTS[kind(name)]
    return _entry(name).layout


def data_name(name: str) -> str | None:
    """The data set that ``@proxy(name, data=...)`` named; for a language model that named none the default text, and
    None for a network on images that named none.

    Raises UsageError for an unknown proxy. Imports no torch for the built-in ones.
    """
    own = None if name in BUILTIN else _entry(name).data
    return own or (None if kind(name) == "image" else DEFAULTS["text"])


def data_of(name: str, data: str | None = None, path: str | None = None) -> Dataset | TextData:
    """What the proxy ``name`` is trained on: the set ``data``, else its own, else the default of its kind.

    ``path`` belongs to ``data``. Raises UsageError for an unknown proxy or data set, and for text where the proxy
    needs images or the other way round; DataError for data that cannot be read.
    """
    wanted = data or data_name(name) or DEFAULT
    made = load(wanted, path=path)
    _check_kind(name, kind(name), made, wanted)
    return made


_WORDS = {"image": "images", "text": "text"}


def _check_kind(name: str, needed: str, data: Data, wanted: str) -> None:
    if data.kind != needed:
        others = [n for n in BUILTIN if kind(n) == data.kind]
        raise UsageError(
            f"proxy {name!r} is trained on {_WORDS[needed]}, data set {wanted!r} is {_WORDS[data.kind]}",
            hint=f"--data {DEFAULTS[needed]}, or leave --data out and every proxy takes its own; "
            f"proxies for {_WORDS[data.kind]}: --proxies {','.join(others)}",
        )


def check_changes(
    changes: Mapping[str, Any], scale: str, proxies: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """``changes`` of fields of specs by proxy. A field is changed on every proxy that has it; a table under the name
    of a proxy is for that one alone, and stands idle where that one is not used.

    Raises UsageError for an unknown proxy or scale, a field that none of them has, and a value that does not fit.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in proxies}
    fields = {name: set(_spec(name, scale).__dataclass_fields__) for name in proxies}
    for key, value in changes.items():
        if isinstance(value, Mapping) and (key in found or key in names()):
            continue
        having = [name for name in proxies if key in fields[name]]
        for name in having or proxies:  # a field that nothing has is refused by the spec, in its words
            found[name][key] = value
    for name in proxies:
        own = changes.get(name)
        found[name] |= dict(own) if isinstance(own, Mapping) else {}
        _spec(name, scale).replace(**found[name])
    return found


def _spec(name: str, scale: str) -> AnySpec:
    scales = {s: table[name] for s, table in SCALES.items()} if name in BUILTIN else dict(_entry(name).scales)
    if scale not in scales:
        raise unknown_name(f"scale of proxy {name!r}", scale, scales)
    return scales[scale]


def spec_of(name: str, scale: str, changes: Mapping[str, Any]) -> AnySpec:
    """Architecture and budget of a proxy with what ``check_changes`` found for it; no data is loaded.

    Raises UsageError for unknown names and fields.
    """
    return _spec(name, scale).replace(**changes)


def get(name: str, scale: str = "tiny", data: Data | str | None = None, **changes: Any) -> Proxy:
    """The proxy ``name`` at ``scale`` on ``data`` (a name, a loaded set, or None for the default).

    ``changes`` replace fields of its spec. Raises UsageError for unknown names and fields, and for text where the
    proxy needs images or the other way round.
    """
    entry = _entry(name)
    spec = _spec(name, scale).replace(**changes)
    source: Data
    if data is None or isinstance(data, str):
        source = data_of(name, data)
    else:
        source = data
        _check_kind(name, entry.kind, source, source.name)
    view = source if isinstance(source, (SearchView, TextView)) else source.search_view()
    return Proxy(name, scale, spec, view, entry.network, entry.kind, entry.layout)
