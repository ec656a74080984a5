"""`replay`: the log folded into the state again, with every decision checked if asked."""

from __future__ import annotations

from typing import Any

from evonas.cli.output import document
from evonas.errors import UsageError, VerificationError
from evonas.run.conductor import DECISIONS, Conductor
from evonas.run.run import Run
from evonas.run.session import open_settings, recorded_space
from evonas.run.session import replay as fold


def replay(spec: str, root: str, *, verify: bool, until: int | None, json: bool) -> int:
    """Print what the fold comes to.

    Raises:
        VerificationError: the first event that differs; its JSON document is printed before.
        UsageError, LogCorrupt: no such run, a space that has changed, damage.
    """
    run = Run(spec, root)
    settings = open_settings(run.directory)
    space = recorded_space(run.directory, settings)
    state: Conductor | None = None
    decisions = events = 0
    try:
        for folded, event in fold(run.directory, settings, space, verify=verify, until=until):
            state = folded
            events += 1
            decisions += event.kind in DECISIONS
    except VerificationError as error:
        if json:
            content = {"run": str(run.path), "verified": False, "events": events, "difference": error.message}
            document("replay", content)
        raise VerificationError(
            error.message, hint=f"the {events} events before it were reproduced; see {run.path}"
        ) from None
    if state is None:
        raise UsageError(f"{run.path} has no event up to number {until}", hint="leave --until out")
    content = _content(run, state, events, decisions, verify)
    if json:
        document("replay", content)
        return 0
    what = "decisions reproduced" if verify else "decisions read, not compared (--verify does)"
    print(f"{events} events, {decisions} {what}, state digest {content['state_digest']}")
    arms = ", ".join(f"{name} {arm.finished}/{state.budget}" for name, arm in state.arms.items())
    print(
        f"{content['phase']}: {arms} evaluated, {content['proposed']} proposed, {content['in_flight']} in flight"
    )
    return 0


def _content(run: Run, state: Conductor, events: int, decisions: int, verify: bool) -> dict[str, Any]:
    return {
        "run": str(run.path),
        "verified": verify,
        "events": events,
        "decisions": decisions,
        "state_digest": state.state_digest(),
        "phase": state.phase,
        "candidates_per_arm": state.budget,
        "proposed": state.next_candidate,
        "in_flight": len(state.flights),
        "arms": {
            name: {
                "proposed": arm.proposed,
                "dispatched": arm.dispatched,
                "finished": arm.finished,
                "scored": len(arm.scores),
                "digest": arm.strategy.state_digest(),
                "front": [m.candidate for m in arm.strategy.front()],
            }
            for name, arm in state.arms.items()
        },
    }
