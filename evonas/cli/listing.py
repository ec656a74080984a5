"""`list`: what there is to choose from, built in, installed and from the plug-ins that the user names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from evonas.cli.output import document, emit, table
from evonas.errors import unknown_name

Rows = list[dict[str, Any]]


def list_things(what: str, *, plugins: Sequence[str], json: bool) -> int:
    """Print one kind of thing.

    Raises:
        UsageError: an unknown kind. PluginError: a plug-in that cannot be loaded.
    """
    if what not in _KINDS:
        raise unknown_name("kind of thing", what, _KINDS)
    from evonas.plugins import GROUPS, describe_plugins, load_entry_points, load_plugins

    load_plugins(describe_plugins(plugins))
    for group in GROUPS if what == "plugins" else ("evonas.primitives", "evonas.spaces", "evonas.layers"):
        load_entry_points(group)
    rows, shown = _KINDS[what]()
    if json:
        document("list", {"kind": what, "items": rows})
    elif rows:
        emit(table(None, shown, [[r[c] for c in shown] for r in rows], fold=shown[1:]))
    else:
        print(f"no {what}")
    return 0


def _spaces() -> tuple[Rows, list[str]]:
    from evonas import search_spaces

    rows = []
    for name in search_spaces.names():
        made = search_spaces.get(name)
        about = made.describe()
        rows.append(
            {"name": name, "layout": about["layout"], "nodes": made.nodes, "inputs": about["inputs"],
             "operations": about["operations"], "options": about["options"],
             "slots": list(made.groups), "summary": search_spaces.summary(name),
             "size": f"{len(about['operations'])} operations"}
        )  # fmt: skip
    return rows, ["name", "layout", "nodes", "size", "summary"]


def _primitives() -> tuple[Rows, list[str]]:
    from evonas import primitives

    rows: Rows = [
        {"name": p.name, "kind": p.kind, "arity": p.arity, "formula": p.formula, "latex": p.latex,
         "singular": p.singular, "flops": p.flops, "source": p.source, "origin": p.origin,
         "summary": p.summary, "triton": p.triton}
        for p in primitives.all_primitives()
    ]  # fmt: skip
    return rows, ["name", "formula", "arity", "singular", "source", "origin"]


def _proxies() -> tuple[Rows, list[str]]:
    from evonas import proxies

    rows: Rows = []
    for name in proxies.names():
        specs = {scale: found[name].to_dict() for scale, found in proxies.SCALES.items() if name in found}
        tiny = specs.get("tiny")
        kind = proxies.kind(name)
        what = f"windows of {tiny['sequence']} tokens" if tiny and kind == "text" else "images"
        words = f"{tiny['steps']} steps of {tiny['batch']} {what}" if tiny else "its own"
        origin = "evonas" if specs else "plug-in"
        scales = ", ".join(specs) or "its own"
        rows.append(
            {"name": name, "scales": scales, "kind": kind, "tiny": words, "origin": origin, "specs": specs}
        )
    return rows, ["name", "kind", "scales", "tiny", "origin"]


def _layers() -> tuple[Rows, list[str]]:
    from evonas.layers.stateful.registry import STATEFUL
    from evonas.layers.zoo import ZOO

    rows = [{"name": name, **entry._asdict()} for name, entry in ZOO.items()]
    rows += [
        {
            "name": name,
            "formula": entry.formula,
            "source": entry.source,
            "summary": f"{entry.summary} (with state)",
        }
        for name, entry in STATEFUL.items()
    ]
    return rows, ["name", "formula", "summary", "source"]


def _data() -> tuple[Rows, list[str]]:
    from evonas import data

    rows: Rows = []
    for name in data.names():
        words = _DATA.get(name, "plug-in")
        defaults = [kind for kind, default in data.DEFAULTS.items() if name == default]
        rows.append(
            {
                "name": name,
                "default": name == data.DEFAULT,
                "default_for": ", ".join(defaults),
                "needs": words,
            }
        )
    return rows, ["name", "default_for", "needs"]


_DATA = {
    "fashion_mnist_small": "nothing: embedded, 6,000 images of 28x28 grey pixels in 10 classes",
    "cifar10": "--data-path: the folder or archive of the official binary version",
    "cifar100": "--data-path: the folder or archive of the official binary version",
    "image_folder": "--data-path: a folder with one sub-folder of images per class",
    "sotu_moby": "nothing: embedded, 4.8 MB of English text: State of the Union addresses and Moby-Dick",
    "text_file": "--data-path: any file, read as bytes",
}


def _strategies() -> tuple[Rows, list[str]]:
    from evonas.evolution import strategy_names, strategy_options

    rows: Rows = []
    for name in strategy_names():
        options = strategy_options(name)
        words = ", ".join(f"{k}={v}" for k, v in options.items())
        rows.append({"name": name, "options": options, "defaults": words})
    return rows, ["name", "defaults"]


def _plugins() -> tuple[Rows, list[str]]:
    from evonas.plugins import GROUPS, broken_plugins, load_entry_points

    rows: Rows = [
        {"group": group, "name": name, "status": "ok", "what": repr(thing)}
        for group in GROUPS
        for name, thing in load_entry_points(group).items()
    ]
    for broken in broken_plugins():
        about = asdict(broken)
        reason = about.pop("reason")
        rows.append({**about, "status": "broken", "what": reason})
    return rows, ["group", "name", "status", "what"]


_KINDS: dict[str, Callable[[], tuple[Rows, list[str]]]] = {
    "spaces": _spaces,
    "primitives": _primitives,
    "proxies": _proxies,
    "layers": _layers,
    "data": _data,
    "strategies": _strategies,
    "plugins": _plugins,
}
