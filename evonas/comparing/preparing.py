"""From what was asked for to a comparison that can be run: settings resolved, layers read, everything checked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evonas.comparing.comparison import Comparison, configuration
from evonas.comparing.contestants import (
    Spec,
    check_fit,
    find_reference,
    operations,
    read_contestants,
    run_of,
)
from evonas.comparing.record import check_same, read_record
from evonas.errors import UsageError
from evonas.plugins import describe_plugins, load_all_plugins
from evonas.run.session import check_evaluation, check_reachable, with_plugins
from evonas.run.settings import Settings, resolve

#: Factors on the learning rate, unless something else is asked for.
LR_FACTORS = (0.5, 1.0, 2.0)


def prepare(
    specs: Sequence[Spec],
    *,
    reference: str | None = None,
    flags: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    plugins: Sequence[str | os.PathLike[str]] = (),
    root: str | os.PathLike[str] = "runs",
    resume: str | os.PathLike[str] | None = None,
) -> Comparison:
    """A comparison without trainings, or with those of the file ``resume``.

    Args:
        specs: the layers; none with ``resume`` takes those of the file.
        flags, sets, environment: as of ``evonas.run.settings.resolve``.
        plugins: files to load first; those of runs that layers are from are loaded too.

    Raises:
        UsageError, FormulaError, DataError, PluginError: what does not exist or does not fit.
        EnvironmentUnusable: a device or kernels that are not there.
    """
    recorded = None if resume is None else read_record(resume)
    base: dict[str, Any] = {"rerank": {"lr_factors": LR_FACTORS}}
    if recorded is not None:
        base = configuration(recorded.settings)
        environment = {k: v for k, v in (environment or {}).items() if k.startswith("EVONAS_WORKERS_")}
    settings, _ = resolve(flags=flags, sets=sets, environment=environment, base=base)
    runs = [found[0] for spec in specs if (found := run_of(spec, root)) is not None]
    named = [str(p["path"]) for p in settings.plugins]
    named += [str(p["path"]) for run in runs for p in Settings.from_dict(run.config).plugins]
    named += [str(p["path"]) for p in describe_plugins([os.fspath(p) for p in plugins])]
    if recorded is None or len(set(named)) > len(settings.plugins):
        settings = with_plugins(settings, dict.fromkeys(named))
    path = settings.evaluation.data_path
    if path is not None:
        settings = replace(settings, evaluation=replace(settings.evaluation, data_path=os.path.abspath(path)))
    settings.check()
    if settings.rerank.seeds < 1:
        raise UsageError(f"{settings.rerank.seeds} seeds, needed is at least one", hint="--seeds 3")
    load_all_plugins(settings.plugins)
    contestants = (
        list(recorded.contestants) if recorded is not None and not specs else read_contestants(specs, root)
    )
    number = find_reference(contestants, reference)
    if recorded is not None and reference is None:
        number = recorded.reference
    made = Comparison(settings, contestants, number, () if recorded is None else recorded.trainings)
    if recorded is not None and resume is not None:
        check_same(recorded, made, resume)
    check_evaluation(settings)
    if settings.evaluation.evaluator == "proxies":
        from evonas.proxies.registry import layout

        check_fit(contestants, {name: layout(name) for name in settings.evaluation.proxies})
    check_reachable(settings, operations(contestants))
    return made
