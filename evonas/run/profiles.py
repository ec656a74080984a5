"""Defaults that depend on the space: which networks, known layers and final trainings suit it.

They stand below everything that a user says and above the general defaults of ``evonas.run.settings``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: layers of language models: a norm for the residual stream and an activation for the feed-forward part
LANGUAGE_BASELINES = (
    "rms_norm+silu",
    "layer_norm+gelu",
    "simple_rms_norm+silu",
    "dyt+silu",
    "derf+silu",
)
#: mutations for a space whose genotype is several small graphs: more of a child is its parent's
_SMALL_STEPS = {"replace": 2.0, "insert": 1.0, "remove": 0.5, "rewire": 0.5}

#: per space: dotted key -> value. Sized so that ``evonas search --space NAME --workers 2`` ends within twenty
#: minutes on two cores, twenty-five for four networks.
PROFILES: Mapping[str, Mapping[str, Any]] = {
    "norm_act_lm": {
        "search.baselines": LANGUAGE_BASELINES,
        "search.max_time_s": 1080.0,
        "search.candidates": 300,
        "space.mutation_weights": _SMALL_STEPS,
        "strategy.window": 30,
        "strategy.initial": 2,
        "evaluation.proxies": ("transformer", "transnormer"),
        "rerank.top": 2,
        "rerank.control_top": 1,
        "rerank.seeds": 2,
        "rerank.budget": 1.0,
        "rerank.time_share": 0.6,
        "rerank.lr_factors": (0.5, 1.0, 2.0),
        "rerank.sweep_budget": 0.4,
        "rerank.data_shares": (0.01,),  # 39 kB, read three times; of all of it a training reads 3 %
    },
    "norm_act_any": {
        "search.baselines": (
            "rms_norm+silu",
            "layer_norm+gelu",
            "dyt+silu",
            "x * sigmoid(v1 * x) / std[c/g](x)",
        ),
        # hardly anything that is drawn at random trains in all four networks
        "search.seeds": ("x / rms[c](x)", "x * sigmoid(x) / rms[c](x)"),
        "search.max_time_s": 1500.0,
        "search.candidates": 300,
        "space.mutation_weights": _SMALL_STEPS,
        "rerank.top": 3,
        "rerank.control_top": 1,
        "rerank.seeds": 2,
        "rerank.budget": 1.0,
        "rerank.time_share": 0.5,
        "rerank.lr_factors": (0.5, 1.0, 2.0),
        "rerank.sweep_budget": 0.4,
        "rerank.data_shares": (0.02,),
        "evaluation.proxies": ("mobilenet", "resnet", "transformer", "transnormer"),
    },
}


def profile(space: str) -> Mapping[str, Any]:
    """The defaults of a space by dotted key; empty for a space that has none of its own."""
    return PROFILES.get(space, {})
