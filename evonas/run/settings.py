"""Settings of a run: sections of plain values, resolved from several sources, each value with its origin.

Precedence: flag > --set section.key=value > EVONAS_SECTION_KEY > configuration file > default of the space
(``evonas.run.profiles``) > default.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from evonas.errors import UsageError, unknown_name
from evonas.evaluation.kernel_choice import DEFAULT as DEFAULT_KERNELS
from evonas.evaluation.kernel_choice import MODES as KERNEL_MODES
from evonas.run._toml import load_toml, tomllib
from evonas.run.objectives import DEFAULT, DEFAULT_LATENCY, check_objectives
from evonas.run.profiles import profile

#: of ``evonas.proxies.parametrization``, which needs torch
PARAMETRIZATIONS = ("standard", "mup")
BASELINES = ("bn_relu", "gn_silu", "gn_relu", "evonorm_b0", "evonorm_s0", "relu")


@dataclass(frozen=True)
class SearchSettings:
    """candidates: evaluated candidates (those that pass the cheap stages) per arm. max_time_s: seconds after
    which nothing new is proposed, re-ranking included; 0 for no limit. control: strategy of the control arm,
    "none" to leave it out. baselines: zoo layers or formulas that are trained in the same run. objectives: accuracy
    (one per proxy), with latency as one more if it is named. latency: where latencies come from: the model of a
    device (h200, h100), or "measured" for timings on the GPU of the slot."""

    space: str = "norm_act"
    strategy: str = "ageing"
    control: str = "random"
    candidates: int = 60
    seed: int = 0
    max_time_s: float = 0.0
    baselines: tuple[str, ...] = BASELINES
    seeds: tuple[str, ...] = ()
    #: consecutive proposals without one to evaluate, after which an arm counts as exhausted.
    exhausted_after: int = 20_000
    objectives: tuple[str, ...] = DEFAULT
    latency: str = DEFAULT_LATENCY


@dataclass(frozen=True)
class EvaluationSettings:
    """What a slot is built from; see ``evonas.evaluation.funnel.ProxyEvaluator``. deadline_s: seconds of one
    processor for one candidate; attempts: how often a candidate is tried that loses its slot."""

    evaluator: str = "proxies"
    #: in the order in which a candidate meets them: the one that turns most away first.
    proxies: tuple[str, ...] = ("mobilenet", "efficientnet", "resnet")
    scale: str = "tiny"
    data: str | None = None
    data_path: str | None = None
    device: str = "cpu"
    hurdle: bool = True
    quality: bool = True
    stability: bool = True
    #: auto: trainings run on generated kernels where those pay; on: wherever there are any; off: never.
    kernels: str = DEFAULT_KERNELS
    #: standard, or mup: rates and scales by which the best learning rate does not move with the width.
    parametrization: str = "standard"
    changes: Mapping[str, Any] = field(default_factory=dict)
    layer: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    deadline_s: float = 600.0
    attempts: int = 3


@dataclass(frozen=True)
class ScreeningSettings:
    """See ``evonas.evaluation.screening.ScreeningOptions``."""

    fingerprint: bool = True
    probe: bool = True
    stack: int = 16
    stack_gain: float = 4.0
    stack_limit: float = 1e8
    stack_collapse: float = 1e-8
    gradient_limit: float = 1e5
    gradient_collapse: float = 1e-6


@dataclass(frozen=True)
class MatterSettings:
    """When a candidate is not trained on its next proxy; see ``evonas.evolution.matter``."""

    enabled: bool = True
    share: float = 0.5
    minimum: int = 8
    slack: float = 0.25
    margin: float = 0.0


@dataclass(frozen=True)
class RerankSettings:
    """top, control_top: finalists of the two arms. seeds: fresh seeds per finalist. budget: multiplies the
    training steps. time_share: of max_time_s, kept for the re-ranking; more where the baselines took so long that this
    would not do. lr_factors: factors on every proxy's learning rate, of which each finalist and baseline gets the best
    on validation data; empty for no sweep. sweep_budget: multiplies the steps of a final training in the sweep.
    data_shares: shares of the training data on which every final training is repeated, besides that on all of them."""

    top: int = 5
    control_top: int = 5
    seeds: int = 3
    budget: float = 1.5
    time_share: float = 0.4
    lr_factors: tuple[float, ...] = ()
    sweep_budget: float = 1.0
    data_shares: tuple[float, ...] = ()


@dataclass(frozen=True)
class WorkersSettings:
    """Where candidates are evaluated. None of these may change a decision."""

    count: int = 1
    backend: str = "auto"
    address: str | None = None
    memory_limit_mb: int = 0
    depth: int = 1
    #: device numbers that the slots take in turn, with evaluation.device = "cuda"
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """All sections. ``space`` and ``strategy`` are checked by the space and the strategy they configure."""

    search: SearchSettings = field(default_factory=SearchSettings)
    space: Mapping[str, Any] = field(default_factory=dict)
    strategy: Mapping[str, Any] = field(default_factory=dict)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    screening: ScreeningSettings = field(default_factory=ScreeningSettings)
    matter: MatterSettings = field(default_factory=MatterSettings)
    rerank: RerankSettings = field(default_factory=RerankSettings)
    workers: WorkersSettings = field(default_factory=WorkersSettings)
    plugins: tuple[Mapping[str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    def deciding(self) -> dict[str, Any]:
        """What a run's first event records: the settings that decisions depend on, as nested plain values.

        A setting that is younger than the log's format is left out at its default, so that older logs replay.
        """
        found = self.to_dict()
        for informative in ("workers", "plugins"):
            del found[informative]
        for section, name, default in (
            ("search", "objectives", DEFAULT),
            ("search", "latency", DEFAULT_LATENCY),
            ("evaluation", "kernels", DEFAULT_KERNELS),
            ("evaluation", "parametrization", "standard"),
            ("rerank", "lr_factors", ()),
            ("rerank", "sweep_budget", 1.0),
            ("rerank", "data_shares", ()),
        ):
            if getattr(getattr(self, section), name) == default:
                del found[section][name]
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Settings:
        """Settings from nested values, e.g. a run's config.toml.

        Raises:
            UsageError: an unknown section or key (with the nearest name), or a value of another type.
        """
        values: dict[str, Any] = {}
        for section, given in data.items():
            if section == "plugins":
                values[section] = _plugins(given)
                continue
            if section not in _SECTIONS:
                raise unknown_name("section", section, _SECTIONS)
            kind = _SECTIONS[section]
            if not isinstance(given, Mapping):
                raise UsageError(f"section {section!r} is {given!r}, it must be a table of keys and values")
            values[section] = dict(given) if kind is None else _section(kind, section, given)
        made = cls(**values)
        made.check()
        return made

    def check(self) -> None:
        """``UsageError`` for a value out of range."""
        _at_least("search.candidates", self.search.candidates, 1)
        _at_least("search.max_time_s", self.search.max_time_s, 0)
        _at_least("search.exhausted_after", self.search.exhausted_after, 1)
        check_objectives(self.search.objectives, self.search.latency)
        _at_least("workers.memory_limit_mb", self.workers.memory_limit_mb, 0)
        _at_least("screening.stack", self.screening.stack, 0)
        for name in ("stack_gain", "stack_limit", "stack_collapse", "gradient_limit", "gradient_collapse"):
            _at_least(f"screening.{name}", getattr(self.screening, name), 0)
        for section in ("space", "strategy"):
            _no_none(section, getattr(self, section))
        for name in ("changes", "layer", "options"):
            _no_none(f"evaluation.{name}", getattr(self.evaluation, name))
        _at_least("workers.count", self.workers.count, 1)
        _at_least("workers.depth", self.workers.depth, 1)
        _at_least("evaluation.deadline_s", self.evaluation.deadline_s, 0.001)
        _at_least("evaluation.attempts", self.evaluation.attempts, 1)
        for name in ("top", "control_top", "seeds"):
            _at_least(f"rerank.{name}", getattr(self.rerank, name), 0)
        if self.evaluation.kernels not in KERNEL_MODES:
            raise unknown_name(
                "evaluation.kernels", self.evaluation.kernels, KERNEL_MODES, hint="--kernels auto"
            )
        if self.evaluation.parametrization not in PARAMETRIZATIONS:
            raise unknown_name(
                "evaluation.parametrization", self.evaluation.parametrization, PARAMETRIZATIONS,
                hint="--parametrization mup",
            )  # fmt: skip
        _at_least("rerank.budget", self.rerank.budget, 0.001)
        _at_least("rerank.sweep_budget", self.rerank.sweep_budget, 0.001)
        _numbers("rerank.lr_factors", self.rerank.lr_factors, math.inf)
        _numbers("rerank.data_shares", self.rerank.data_shares, 1.0)
        if not 0 <= self.rerank.time_share < 1:
            raise UsageError(f"rerank.time_share = {self.rerank.time_share}, it must be in [0, 1)")
        if not self.evaluation.proxies or len(set(self.evaluation.proxies)) != len(self.evaluation.proxies):
            raise UsageError(
                f"evaluation.proxies = {list(self.evaluation.proxies)}, needed is at least one, each once",
                hint="--proxies resnet,mobilenet",
            )


_SECTIONS: dict[str, type | None] = {
    f.name: t if is_dataclass(t := typing.get_type_hints(Settings)[f.name]) else None  # type: ignore[misc]
    for f in fields(Settings)
    if f.name != "plugins"
}


def _plugins(given: Any) -> tuple[dict[str, str], ...]:
    """Plug-ins as {path, sha256}; a path alone is one whose digest is not recorded yet."""
    entries = (
        [{"path": p} if isinstance(p, str) else p for p in given]
        if isinstance(given, (list, tuple))
        else [None]
    )
    if not all(isinstance(p, Mapping) and isinstance(p.get("path"), str) for p in entries):
        raise UsageError(f"plugins = {given!r} does not fit", hint='write plugins = ["path/to/file.py"]')
    return tuple({str(k): str(v) for k, v in p.items()} for p in entries if p is not None)


def _no_none(name: str, table: Mapping[str, Any]) -> None:
    """A table is stored as TOML, which has no null."""
    for key, value in table.items():
        if value is None:
            raise UsageError(f"{name}.{key} = None cannot be stored", hint="leave the key out")
        if isinstance(value, Mapping):
            _no_none(f"{name}.{key}", value)


def _at_least(name: str, value: float, low: float) -> None:
    if not (math.isfinite(value) and value >= low):
        raise UsageError(f"{name} = {value}, it must be at least {low}")


def _numbers(name: str, values: Sequence[float], high: float) -> None:
    """Different numbers above 0; finite, and at most ``high``."""
    if len(set(values)) != len(values) or not all(0 < v <= high and v < math.inf for v in values):
        most = "" if high == math.inf else f", at most {high:g}"
        raise UsageError(
            f"{name} = {list(values)}, needed are different numbers above 0{most}",
            hint=f"--set {name}=[0.25,0.5]",
        )


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (tuple, list)) else value


def _section(kind: type, section: str, given: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    for key in given:
        if key not in hints:
            raise unknown_name(f"key of section {section!r}", key, hints)
    return kind(**{key: _typed(f"{section}.{key}", hints[key], value) for key, value in given.items()})


def _typed(name: str, hint: Any, value: Any) -> Any:
    """``value`` as the type of a field; strings are read as lists where lists are needed."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    target = next(o for o in options if o is not type(None))
    origin = typing.get_origin(target) or target
    if origin is tuple:
        if isinstance(value, str):
            # formulas hold commas too: only those outside brackets separate
            value = [v.strip() for v in re.split(r",(?![^\[(]*[\])])", value) if v.strip()]
        if float in typing.get_args(target):
            value = [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else value
            with contextlib.suppress(TypeError, ValueError):
                if not any(isinstance(v, bool) for v in value):
                    return tuple(float(v) for v in value)
        elif isinstance(value, Sequence) and all(isinstance(v, str) for v in value):
            return tuple(value)
    elif origin in (Mapping, typing.get_origin(Mapping[str, Any])):
        if isinstance(value, Mapping):
            return dict(value)
    elif target is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, target) and not (target is int and isinstance(value, bool)):
        return value
    words = {
        "tuple": "a list of numbers" if float in typing.get_args(target) else "a list of names",
        "Mapping": "a table",
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "str": "a text",
    }.get(getattr(origin, "__name__", ""), origin.__name__)
    raise UsageError(f"{name} = {value!r} does not fit", hint=f"needed is {words}")


def resolve(
    *,
    flags: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    file: str | os.PathLike[str] | None = None,
    base: Mapping[str, Any] | None = None,
) -> tuple[Settings, dict[str, str]]:
    """Settings and the origin of each value that is not a default, both by dotted key.

    Args:
        flags: dotted key -> value; None values count as not given.
        sets: "section.key=value" with a TOML value or a bare string.
        environment: variables, those named EVONAS_<SECTION>_<KEY> are read (default: none).
        file: a TOML file with the sections as tables.
        base: nested values under all of these (a run that is resumed); the space has no say then.

    Raises:
        UsageError: an unknown section or key (with the nearest name), a value that does not fit.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}

    def put(key: str, value: Any, origin: str) -> None:
        section, dot, name = key.partition(".")
        if not dot or not name:
            raise UsageError(
                f"{key!r} is not a setting", hint="write section.key, for example search.candidates"
            )
        if section not in _SECTIONS:
            raise unknown_name("section", section, _SECTIONS)
        place = values.setdefault(section, {})
        *path, last = name.split(".")
        for part in path:
            place[part] = dict(place[part]) if isinstance(place.get(part), Mapping) else {}
            place = place[part]
        place[last] = value
        origins[key] = origin

    for section, table in dict(base or {}).items():
        if section == "plugins":
            values["plugins"] = table
            continue
        values[section] = dict(table)
    if file is not None:
        for section, table in load_toml(Path(file)).items():
            if section == "plugins":  # the config.toml of a run is a configuration file too
                values["plugins"] = table
                continue
            if not isinstance(table, Mapping):
                raise UsageError(
                    f"{file}: {section} stands outside a table", hint="put keys under [search], [space], ..."
                )
            for key, value in table.items():
                put(f"{section}.{key}", value, f"file {file}")
    for variable, text in sorted((environment or {}).items()):
        key = _variable_key(variable)
        if key is not None:
            put(key, parse_value(text), f"environment {variable}")
    for item in sets:
        key, equals, text = item.partition("=")
        if not equals:
            raise UsageError(f"--set {item!r} has no value", hint="write --set search.candidates=200")
        put(key.strip(), parse_value(text), "--set")
    for key, value in (flags or {}).items():
        if value is not None:
            put(key, value, "flag")
    if base is None:
        space = values.get("search", {}).get("space", SearchSettings.space)
        for key, value in profile(str(space)).items():
            if not _is_given(values, key):
                put(key, value, f"space {space}")
    return Settings.from_dict(values), origins


def _is_given(values: Mapping[str, Any], key: str) -> bool:
    """Whether somebody has set a dotted key, or something below it."""
    section, _, name = key.partition(".")
    return name in values.get(section, {})


#: EVONAS_ variables with a meaning of their own.
_OTHER_VARIABLES = {"EVONAS_KERNEL_COOPERATIVE", "EVONAS_KERNEL_DIR", "EVONAS_PLUGINS", "EVONAS_RUNS"}


def _variable_key(variable: str) -> str | None:
    if not variable.startswith("EVONAS_") or variable in _OTHER_VARIABLES:
        return None
    section, _, name = variable[len("EVONAS_") :].lower().partition("_")
    if section not in _SECTIONS or not name:
        raise UsageError(
            f"environment variable {variable} is not a setting",
            hint="write EVONAS_<SECTION>_<KEY>, for example EVONAS_SEARCH_CANDIDATES=200, or unset it",
        )
    return f"{section}.{name}"


def parse_value(text: str) -> Any:
    """A TOML value; text that is none is taken as a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
