"""`search --dry-run`: the plan and its cost; nothing is created."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evonas.cli.output import document, emit, table
from evonas.run.wording import seconds, size

if TYPE_CHECKING:
    from evonas.cli.search import Request


def dry_run(request: Request) -> int:
    """Print settings with their origins, the plan and its cost.

    Raises:
        UsageError and its kin: everything that a search would refuse before it makes its folder.
    """
    from evonas.cli.search import settings_of
    from evonas.plugins import load_all_plugins
    from evonas.run.plan import estimate_measurable, make_plan, written_files
    from evonas.run.session import check_settings

    settings, origins = settings_of(request)
    load_all_plugins(settings.plugins)
    space = check_settings(settings)
    plan = make_plan(settings, space, measure=estimate_measurable(settings))
    files = written_files(request.out, settings)
    if request.json:
        content = {"settings": settings.to_dict(), "origins": origins, "plan": plan, "writes": files}
        document("plan", content)
        return 0
    _print_settings(settings.to_dict(), origins)
    _print_plan(plan)
    print("writes")
    for path, what in files.items():
        print(f"  {path}: {what}")
    print(f"  about {size(plan['disk_bytes'])} in all")
    print("\nnothing was made; leave --dry-run out to start")
    return 0


def _print_settings(values: Mapping[str, Any], origins: Mapping[str, str]) -> None:
    rows = []
    for section, table_ in values.items():
        if section == "plugins":
            rows += [("plugins", p["path"], "flag or file") for p in table_]
            continue
        for key, value in table_.items():
            dotted = f"{section}.{key}"
            inner = [o for k, o in origins.items() if k.startswith(f"{dotted}.")]
            origin = origins.get(dotted) or (inner[0] if inner else "default")
            if isinstance(value, list):
                value = ", ".join(map(str, value))
            if value not in (None, "", {}):
                rows.append((dotted, value, origin))
    emit(table("Settings", ["setting", "value", "from"], rows, fold=["value"]))


def _extra(budget: Mapping[str, Any]) -> str:
    """What of the re-ranking's trainings is not one of all the data at the usual rate."""
    parts = []
    if "sweep_trainings_per_proxy" in budget:
        parts.append(f"{budget['sweep_trainings_per_proxy']} of them for learning rates")
    if "data_sizes" in budget:
        parts.append(f"each seed at {budget['data_sizes']} sizes of the data")
    return f" ({', '.join(parts)})" if parts else ""


def _print_plan(plan: Mapping[str, Any]) -> None:
    space, budget, slots = plan["space"], plan["budget"], plan["slots"]
    print(f"space   {space['name']}: {space['operations']} operations, {space['nodes']} nodes, "
          f"about 10^{space['genotypes_log10']:.0f} genotypes")  # fmt: skip
    print(f"stages  {' -> '.join(plan['stages'])}")
    for name, what in plan["objectives"].items():
        if len(plan["objectives"]) > 1:
            print(f"goal    {what['direction']} {name}: {what['source']}; {what['unit']}")
    arms = ", ".join(f"{arm} ({strategy})" for arm, strategy in plan["arms"].items())
    print(f"budget  {budget['candidates_per_arm']} evaluated candidates for each of: {arms}; "
          f"{budget['baselines']} baselines; {budget['finalists']} finalists, "
          f"{budget['rerank_trainings_per_proxy']} re-ranking trainings per proxy{_extra(budget)}")  # fmt: skip
    print(f"slots   {slots['count']} ({slots['backend']}) on {slots['processors']} processors here")
    for baseline, moments in plan.get("see_other_tokens", {}).items():
        print(f"beware  baseline {baseline}: its {', '.join(moments)} shows a token the other ones in training, "
              f"which no candidate may")  # fmt: skip
    if plan["seconds"] is None:
        print("cost    unknown: the evaluator is a plug-in's")
        return
    trainings, time = plan["trainings"], plan["seconds"]
    print(f"work    {trainings['low']} to {trainings['high']} full trainings, "
          f"{trainings['steps_low']:,} to {trainings['steps_high']:,} training steps")  # fmt: skip
    for proxy in plan["proxies"]:
        how = "timed here" if proxy["measured"] else "from a table, not timed"
        print(
            f"        {proxy['proxy']}: {proxy['steps']} steps of {1000 * proxy['step']:.0f} ms of one core ({how})"
        )
    print(f"time    about {seconds(time['likely'])}, between {seconds(time['low'])} (every candidate fails its first "
          f"test) and {seconds(time['high'])} (every one is trained)")  # fmt: skip
    if budget["max_time_s"]:
        print(f"        --max-time ends it after {seconds(budget['max_time_s'])}")
    print(f"memory  about {size(plan['memory_bytes'])} for all slots")
