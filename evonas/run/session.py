"""Starting, resuming and replaying a run: what ties settings, directory, log, conductor and backend together."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import entry_points
from typing import Any

from evonas import primitives, search_spaces
from evonas.data import Dataset, TextData
from evonas.data.text import BLOCK
from evonas.data.vocabulary import vocabulary
from evonas.errors import (
    EnvironmentUnusable,
    EvonasError,
    PluginError,
    UsageError,
    VerificationError,
    unknown_name,
)
from evonas.evaluation.kernel_choice import choose
from evonas.evaluation.protocol import EvaluatorSpec
from evonas.evaluation.registry import find_evaluator
from evonas.evolution import make_bar, strategy_names, strategy_options
from evonas.graph import get_layout
from evonas.layers import resolve_candidate
from evonas.layers.assembled import is_name
from evonas.plugins import FORMULA_GROUPS, describe_plugins, load_all_plugins, load_entry_points, load_plugins
from evonas.run._files import write_json, write_text
from evonas.run._toml import dump_toml
from evonas.run.backends import KINDS, Backend, make_backend
from evonas.run.candidates import write_candidates
from evonas.run.conductor import Conductor, meaning
from evonas.run.directory import RunDirectory
from evonas.run.drive import Driver, Observer
from evonas.run.log import EventLog, read_events, scan_log
from evonas.run.objectives import LATENCY, MEASURED, describe_objectives
from evonas.run.schema import Event, pack
from evonas.run.segments import EVENTS, segment_paths
from evonas.run.settings import Settings
from evonas.search_spaces import AnySpace


def with_plugins(settings: Settings, paths: Iterable[str | os.PathLike[str]]) -> Settings:
    """Settings that name these plug-in files with their digests."""
    return replace(settings, plugins=tuple(describe_plugins([os.fspath(p) for p in paths])))


def build_space(settings: Settings) -> AnySpace:
    """The space that settings name; ``UsageError`` for an unknown name or option."""
    return search_spaces.get(settings.search.space, **settings.space)


def check_settings(settings: Settings) -> AnySpace:
    """Everything that can be known before the first candidate; returns the space.

    Raises:
        UsageError, FormulaError, DataError, PluginError: what does not exist or does not fit.
    """
    settings.check()
    if settings.workers.backend not in KINDS:
        raise unknown_name("backend", settings.workers.backend, KINDS)
    space = build_space(settings)
    options = strategy_options(settings.search.strategy, settings.strategy)
    _check_latency(settings, options)
    if settings.search.control not in ("none", *strategy_names()):
        raise unknown_name("control strategy", settings.search.control, ["none", *strategy_names()])
    for text in settings.search.baselines:
        resolve_candidate(text).laid_out(space.layout.name)
    for text in settings.search.seeds:
        space.check(meaning(resolve_candidate(text)))
    matter = asdict(settings.matter)
    matter.pop("enabled")
    make_bar((), **matter)
    check_evaluation(settings)
    _check_layouts(settings, space)
    check_reachable(settings, space.rows)
    return space


def _check_layouts(settings: Settings, space: AnySpace) -> None:
    """Every index set that the space draws must mean something to the layers of every proxy."""
    from evonas.proxies.registry import layout

    if settings.evaluation.evaluator != "proxies":
        return
    for name in settings.evaluation.proxies:
        where = get_layout(layout(name))
        for operation in space.operations:
            missing = [axis for axis in operation.index or () if axis not in where.axes]
            if missing:
                raise UsageError(
                    f"space {space.name!r} draws {operation}, and the layers of proxy {name!r} are given tensors "
                    f"{where.shape}, which have no axis {missing[0]!r}",
                    hint="--space norm_act_lm for language models, norm_act_any for both kinds, or another proxy",
                )


def check_evaluation(settings: Settings) -> None:
    """What a slot is built from: proxies, data, device, kernels; or the evaluator of a plug-in.

    Raises:
        UsageError, DataError, PluginError, EnvironmentUnusable: what does not exist or does not fit.
    """
    if settings.evaluation.evaluator == "proxies":
        _check_proxies(settings)
    else:
        find_evaluator(evaluator_spec(settings))


def _check_latency(settings: Settings, strategy: Mapping[str, Any]) -> None:
    """What a second objective, and timing it, ask of the other settings."""
    search, workers = settings.search, settings.workers
    if LATENCY not in search.objectives:
        return
    if strategy.get("selection") == "average":
        raise UsageError(
            "strategy.selection = 'average' adds up scores; accuracies and microseconds have no sum",
            hint="--set strategy.selection=pareto",
        )
    if search.latency != MEASURED or settings.evaluation.evaluator != "proxies":
        return
    if settings.evaluation.device == "cpu":
        raise UsageError(
            "search.latency = 'measured' times layers on the GPU of their slot, and evaluation.device is 'cpu'",
            hint="--device cuda, or search.latency = h200 for the model",
        )
    if workers.count > max(1, len(set(workers.gpus))):
        raise UsageError(
            f"{workers.count} slots share {max(1, len(set(workers.gpus)))} GPU: a layer that is timed needs it alone",
            hint="--workers 1, one slot per entry of workers.gpus, or search.latency = h200 for the model",
        )


def check_reachable(settings: Settings, names: Iterable[str]) -> None:
    """Primitives must exist in the slots too, which load plug-ins and nothing of the caller's.

    Raises:
        PluginError: one that does not.
    """
    if settings.workers.backend == "inline":
        return
    installed = {
        point.value.partition(":")[0].partition(".")[0]
        for group in FORMULA_GROUPS
        for point in entry_points(group=group)
    }
    for row in names:
        origin = primitives.get(row).origin
        root = origin.split(".")[0]
        if root not in installed | {"evonas"} and not root.startswith("evonas_plugin_"):
            raise PluginError(
                f"primitive {row!r} was defined in {origin}, which the workers do not load",
                hint="put it in a file and name that: --plugin FILE, or plugins=[...] of evonas.search",
            )


def _check_device(device: str, address: str | None) -> None:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UsageError(f"unknown device {device!r}", hint="use --device cpu, cuda or cuda:0")
    if device == "cpu" or address:  # what a cluster has is seen there
        return
    import torch

    if not torch.cuda.is_available():
        raise EnvironmentUnusable(
            f"device {device!r} is not usable: torch {torch.__version__} sees no GPU",
            hint="use --device cpu, or ask `evonas doctor`",
        )


def _check_proxies(settings: Settings) -> None:
    from evonas import proxies

    evaluation = settings.evaluation
    _check_device(evaluation.device, settings.workers.address)
    if not settings.workers.address:
        choose(evaluation.kernels, evaluation.device)
    load_entry_points("evonas.proxies")
    load_entry_points("evonas.datasets")
    for name in evaluation.proxies:
        if name not in proxies.names():
            raise unknown_name("proxy", name, proxies.names(), hint="`evonas list proxies` shows all")
        specs = {scale: table[name] for scale, table in proxies.SCALES.items() if name in table}
        if specs and evaluation.scale not in specs:
            raise unknown_name("scale", evaluation.scale, specs)
    changes = proxies.check_changes(evaluation.changes, evaluation.scale, evaluation.proxies)
    for name in evaluation.proxies:
        loaded = proxies.data_of(name, evaluation.data, evaluation.data_path)
        spec = proxies.SCALES.get(evaluation.scale, {}).get(name)
        if spec is None:
            continue
        if isinstance(loaded, Dataset):
            batch = int(changes[name].get("batch", spec.batch))
            _check_shares(settings.rerank.data_shares, len(loaded.train), batch)
        else:
            _check_text(loaded, spec.replace(**changes[name]), settings.rerank.data_shares)
    for key, value in evaluation.layer.items():
        if key not in _LAYER_OPTIONS:
            raise unknown_name("key of evaluation.layer", key, _LAYER_OPTIONS)
        whole = _LAYER_OPTIONS[key] == "whole"
        number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not number or float(value) <= 0:
            needed = f"needed is a {'whole ' if whole else ''}number above 0"
            raise UsageError(f"evaluation.layer.{key} = {value!r} does not fit", hint=needed)


def _check_text(text: TextData, spec: Any, shares: Sequence[float]) -> None:
    """Refuse now what a slot would refuse: parts shorter than a window, a vocabulary that the text does not give.

    Learning byte pairs takes seconds; it is done here and again in the slots, which are other processes.
    """
    tokens = vocabulary(spec.tokenizer, spec.vocabulary, text.train)
    for part, split in (
        ("training", text.train),
        ("validation", text.validation),
        ("held-out", text.heldout),
    ):
        count = len(tokens.encode(split.data))
        if count <= spec.sequence:
            raise UsageError(
                f"the {part} part of data set {text.name!r} has {count} tokens, needed are more than a window of "
                f"{spec.sequence}",
                hint="name a longer text, or --set evaluation.changes.sequence=N with a smaller N",
            )
        for share in shares if part == "training" else ():
            blocks = -(-count // BLOCK)
            if round(share * blocks) < 1:
                raise UsageError(
                    f"rerank.data_shares: {share:g} of {blocks} blocks of {BLOCK} training tokens are none",
                    hint="take a larger share or a longer text, or --set rerank.data_shares=[]",
                )


def _check_shares(shares: Sequence[float], images: int, batch: int) -> None:
    """Refuse now what a slot would refuse hours later."""
    for share in shares:
        if round(share * images) < batch:
            raise UsageError(
                f"rerank.data_shares: {share:g} of {images} training images are {round(share * images)}, "
                f"needed are {batch}: a batch",
                hint="take a larger share or a smaller batch",
            )


#: options of ``GraphLayer`` that a search may set for all candidates
_LAYER_OPTIONS = {"groups": "whole", "group_size": "whole", "eps": "real", "momentum": "real"}


def evaluator_spec(settings: Settings) -> EvaluatorSpec:
    """What every slot builds its evaluator from."""
    evaluation = settings.evaluation
    options: dict[str, Any] = dict(evaluation.options)
    if evaluation.evaluator == "proxies":
        names = (
            "proxies",
            "scale",
            "data",
            "data_path",
            "changes",
            "layer",
            "hurdle",
            "quality",
            "stability",
            "device",
            "kernels",
            "parametrization",
        )
        options |= {name: getattr(evaluation, name) for name in names}
        if LATENCY in settings.search.objectives and settings.search.latency == MEASURED:
            options["latency"] = True
    return EvaluatorSpec(evaluation.evaluator, options, tuple(settings.plugins))


def create_run(
    settings: Settings,
    *,
    root: str | os.PathLike[str] = "runs",
    origins: Mapping[str, str] | None = None,
    command: Sequence[str] = (),
) -> RunDirectory:
    """Check the settings and make the run's folder with an empty log.

    Raises:
        UsageError and its kin for settings that do not fit, ``EnvironmentUnusable`` for a folder that
        cannot be written; nothing is left behind then.
    """
    load_all_plugins(settings.plugins)
    space = check_settings(settings)
    settings = _self_contained(settings)
    text = f"{settings.to_dict()!r} {time.time_ns()} {os.getpid()}"
    short = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    return RunDirectory.create(
        root, settings.search.space, short,
        seed=settings.search.seed, config=settings.to_dict(), origins=dict(origins or {}),
        space_description=space.describe() | {"identity": space.identity()}, command=command or sys.argv,
        objectives=describe_objectives(settings.to_dict()), kernels=_kernels(settings),
    )  # fmt: skip


def _kernels(settings: Settings) -> dict[str, str | None] | None:
    """The kernels that this machine has for the run; what each candidate ran on is in its reports."""
    evaluation = settings.evaluation
    if evaluation.evaluator != "proxies":
        return None
    if settings.workers.address:
        return {"setting": evaluation.kernels, "backend": None, "used": None, "why": "decided on the cluster"}
    choice = choose(evaluation.kernels, evaluation.device)
    return {
        "setting": evaluation.kernels, "backend": choice.backend, "used": choice.used, "why": choice.why,
    }  # fmt: skip


def _self_contained(settings: Settings) -> Settings:
    """Settings that mean the same in another folder and after layer files have moved: formulas for files, a full
    path for data."""

    def formula(text: str) -> str:
        return text if is_name(text) else resolve_candidate(text).text

    search, evaluation = settings.search, settings.evaluation
    path = evaluation.data_path
    return replace(
        settings,
        search=replace(
            search, baselines=tuple(map(formula, search.baselines)), seeds=tuple(map(formula, search.seeds))
        ),
        evaluation=replace(evaluation, data_path=None if path is None else os.path.abspath(path)),
    )


def open_settings(directory: RunDirectory) -> Settings:
    """The settings of an existing run."""
    return Settings.from_dict(directory.config)


def recorded_space(directory: RunDirectory, settings: Settings, *, allow_change: bool = False) -> AnySpace:
    """The run's space, rebuilt.

    Raises:
        UsageError: it is not the space that the run began with (a plug-in or evonas itself has changed).
    """
    load_all_plugins(() if allow_change else settings.plugins)
    if allow_change:
        load_plugins(describe_plugins([p["path"] for p in settings.plugins]))
    space = build_space(settings)
    recorded = directory.space.get("identity")
    if recorded != space.identity() and not allow_change:
        raise UsageError(
            f"the space {settings.search.space!r} of {directory.path.name} is not the one that the run began with: "
            f"{_space_difference(directory.space, space.describe())}",
            hint="restore the plug-in or version, or type --allow-change to go on with the new space",
        )
    if recorded != space.identity():
        _check_readable(directory, space)
    return space


def _check_readable(directory: RunDirectory, space: AnySpace) -> None:
    """A changed space must still read the genotypes of the log: same layout, inputs and number of nodes, the
    operations that both have in the same places, and none of the missing ones in use."""
    old, new = directory.space, space.describe()
    shared = min(len(old["operations"]), len(new["operations"]))
    before, after = (
        {"layout": d["layout"], "inputs": d["inputs"], "nodes": d["options"]["nodes"],
         "slots": d["options"].get("slots"),
         "operations": d["operations"][:shared]}
        for d in (old, new)
    )  # fmt: skip
    if before != after:
        changed = next(name for name in before if before[name] != after[name])
        raise UsageError(
            f"the genotypes of {directory.path.name} cannot be read in the changed space: "
            f"{changed} was {before[changed]}, is {after[changed]}",
            hint="start a new run with evonas search; --seed-layer brings the layers that were found",
        )
    if segment_paths(directory.path / EVENTS):
        for event in read_events(directory.path):
            if event.genotype is not None:
                space.decode(event.genotype)


def _space_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    changed = [k for k in new if old.get(k) != new[k]]
    return ", ".join(f"{k} was {old.get(k)}, is {new[k]}" for k in changed)[:600] or "it differs"


def replay(
    directory: RunDirectory,
    settings: Settings,
    space: AnySpace,
    *,
    verify: bool = True,
    until: int | None = None,
) -> Iterator[tuple[Conductor, Event]]:
    """Fold the log into a conductor, event by event.

    Yields the conductor after each event, with the event. ``verify`` compares every logged decision with the
    one that the state demands; decisions from before a resumption with a changed space are taken as they are,
    since the space that made them is gone. ``until``: the last event's seq.

    Raises:
        VerificationError: the first event that differs.
        LogCorrupt: damage other than a torn tail.
    """
    conductor = Conductor(settings, space)
    changed = [e.seq for e in read_events(directory.path) if e.kind == "resumed" and "space" in e.details()]
    unchecked = changed[-1] if changed and changed[-1] is not None else -1
    for event in read_events(directory.path):
        assert event.seq is not None
        if until is not None and event.seq > until:
            return
        if verify and event.seq > unchecked:
            conductor.check(event)
        conductor.apply(event)
        yield conductor, event


def _look_ahead(conductor: Conductor, settings: Settings, space: AnySpace) -> None:
    """On a GPU, let the arms screen many candidates in one launch; decisions stay as they are."""
    if not settings.evaluation.device.startswith("cuda"):
        return
    from evonas.evaluation.stack_batch import make_ahead

    for arm in conductor.arms.values():
        arm.screen.ahead = make_ahead(space.layout, arm.screen.options, settings.evaluation.device)


def execute(
    directory: RunDirectory,
    settings: Settings,
    *,
    resume: bool = False,
    allow_change: bool = False,
    observers: tuple[Observer, ...] = (),
    on_driver: Any = None,
) -> str:
    """Run or resume to the end; returns "finished", "empty" or "interrupted".

    Args:
        settings: workers, search.candidates and search.max_time_s are taken from here, and the evaluation's
            options; everything that decides is taken from what the run recorded when it was made.
        on_driver: called with the driver before it starts, to hand it to signal handlers.

    Raises:
        RunLocked: another process writes to the run. UsageError: nothing to resume, or a changed space.
        EnvironmentUnusable: disk, slots, cluster. In every case what was flushed is safe.
    """
    with directory.lock():
        recorded = open_settings(directory)
        # the space that is asked for: a resume with another one is refused, or adopted if that is allowed
        recorded = replace(
            recorded, space=settings.space, search=replace(recorded.search, space=settings.search.space)
        )
        space = recorded_space(directory, recorded, allow_change=allow_change)
        conductor = Conductor(recorded, space)
        begun = resume and any((directory.path / "events").glob("*.arrows"))
        # a run that was killed before its first event has a segment at most: it begins anew
        begun = begun and bool(scan_log(directory.path, run_id=directory.id).run_id)
        if begun:
            conductor = _recover(directory, recorded, space, conductor, allow_change)
        more = settings.search.candidates > conductor.budget or conductor.short_of_budget()
        if conductor.finished and not more:
            raise UsageError(
                f"{directory.path.name} is finished: {conductor.budget} candidates per arm",
                hint=f"evonas resume {directory.path} --candidates {2 * conductor.budget}",
            )
        _look_ahead(conductor, recorded, space)
        if allow_change:
            settings = replace(
                settings, plugins=tuple(describe_plugins([p["path"] for p in settings.plugins]))
            )
        backend = backend_for(settings)
        metadata = {"proxies": list(settings.evaluation.proxies)}
        try:
            with (
                EventLog.open(directory.path, run_id=directory.id)
                if begun
                else EventLog.create(directory.path, directory.id, metadata)
            ) as log:
                rerank = recorded.rerank
                driver = Driver(
                    conductor, log, backend, observers=observers, max_time_s=settings.search.max_time_s,
                    rerank_share=rerank.time_share if rerank.seeds else 0.0,
                    patience=patience(settings),
                )  # fmt: skip
                if on_driver is not None:
                    on_driver(driver)
                if conductor.events:
                    driver.record(_resumed(conductor, settings, _adopt(directory, recorded, space)))
                    log.flush()
                directory.set_status("running", attempts=int(directory.info.get("attempts", 0)) + 1)
                backend.start()
                status = driver.run()
            if status == "finished" and not any(arm.scores for arm in conductor.arms.values()):
                status = "empty"
            directory.set_status(status)
            write_candidates(directory.path)
        except BaseException as error:
            _mark(directory, "failed" if isinstance(error, Exception) else "interrupted")
            raise
        finally:
            backend.close(now=True)
    return status


def _mark(directory: RunDirectory, status: str) -> None:
    with contextlib.suppress(EvonasError):  # the disk is full or gone: the events say what happened
        directory.set_status(status)


def backend_for(settings: Settings) -> Backend:
    """The evaluation slots that settings ask for; not started.

    Raises:
        UsageError: an unknown backend.
    """
    workers = settings.workers
    return make_backend(
        workers.backend, workers.count, evaluator_spec(settings), address=workers.address,
        memory_limit=workers.memory_limit_mb * 2**20 or None, depth=workers.depth, gpus=workers.gpus,
    )  # fmt: skip


def patience(settings: Settings) -> float:
    """Slots per processor of this machine, if that is above one: deadlines are longer by this factor."""
    workers = settings.workers
    return 1.0 if workers.address else max(1.0, workers.count / len(os.sched_getaffinity(0)))


def _recover(
    directory: RunDirectory, settings: Settings, space: AnySpace, conductor: Conductor, allow_change: bool
) -> Conductor:
    try:
        # the state grows under the budget that the run began with; `resumed` events carry later ones
        for state, _ in replay(directory, settings, space, verify=not allow_change):
            conductor = state
    except VerificationError as error:
        raise UsageError(
            f"{directory.path.name} cannot be resumed: {error.message}",
            hint="it was written by another version; --allow-change goes on without the check",
        ) from None
    drift = conductor.latency_drift()
    if drift is not None and not allow_change:
        raise UsageError(
            f"{directory.path.name} cannot be resumed: {drift}",
            hint="it was written by another version; --allow-change goes on with both in one run",
        )
    return conductor


def _adopt(directory: RunDirectory, settings: Settings, space: AnySpace) -> dict[str, str]:
    """Make a changed space the run's own, so that it can be resumed and verified from here on."""
    if directory.space.get("identity") == space.identity():
        return {}
    plugins = describe_plugins([p["path"] for p in settings.plugins])
    config = settings.to_dict() | {"plugins": [dict(p) for p in plugins]}
    write_json(directory.path / "space.json", space.describe() | {"identity": space.identity()})
    write_text(directory.path / "config.toml", dump_toml(config))
    return {"space": space.identity()}


def _resumed(conductor: Conductor, settings: Settings, changed: Mapping[str, str]) -> Event:
    detail: dict[str, Any] = {
        "events": conductor.events,
        "in_flight": sorted(conductor.flights),
        "state": conductor.state_digest(),
        **changed,
    }
    if settings.search.candidates > conductor.budget or conductor.finished:
        detail["candidates"] = max(settings.search.candidates, conductor.budget)
    return Event("resumed", detail=pack(detail))
