"""A run as an Optuna study, so that Optuna's plots and dashboard show it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evonas.run.objectives import LATENCY
from evonas.run.run import Run

if TYPE_CHECKING:
    import optuna


def to_optuna(run: Run, *, arm: str = "search", storage: Any = None) -> optuna.Study:
    """The evaluated candidates of one arm as trials, one objective per proxy, maximised.

    Where latency is an objective of the search it is the last one, minimised. Scored candidates are complete trials
    with their scores as values; the others are pruned trials. The study's user attribute ``proxies`` names the
    objectives; those of a trial are candidate, formula, parent, origin, stage, reason.

    Args:
        storage: of Optuna, e.g. "sqlite:///evonas.db" for its dashboard; None keeps the study in memory.
    """
    import optuna
    from optuna.study import StudyDirection
    from optuna.trial import TrialState, create_trial

    proxies = run.proxies
    timed = LATENCY in run.objectives
    study = optuna.create_study(
        study_name=f"{run.id}/{arm}",
        storage=storage,
        directions=[StudyDirection.MAXIMIZE] * len(proxies) + [StudyDirection.MINIMIZE] * timed,
        load_if_exists=True,
    )
    study.set_user_attr("proxies", list(proxies))
    columns = [*(f"score_{p}" for p in proxies), *(["latency_us"] if timed else [])]
    known = {t.user_attrs.get("candidate") for t in study.get_trials(deepcopy=False)}
    for row in run.table().to_pylist():
        if row["arm"] != arm or row["formula"] is None or row["candidate"] in known:
            continue
        scored = row["outcome"] == "scored"
        names = ("candidate", "formula", "parent", "origin", "stage", "reason")
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if scored else TrialState.PRUNED,
                values=[row[column] for column in columns] if scored else None,
                user_attrs={name: row[name] for name in names if row[name] is not None},
            )
        )
    return study
