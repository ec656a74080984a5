"""The published layers with state, as declared: what `evonas show` prints without importing torch."""

from __future__ import annotations

from typing import Any

from evonas.layers.stateful.contract import Buffer, StateContract

_C = ("C",)
_NO_PADDING = (
    "with a mask, padding is left out of every mean, in the backward pass too (unlike the released code)"
)

POWER_NORM = StateContract(
    buffers=(
        Buffer(
            "phi", _C, 1.0,
            "running mean of squares, forward_decay * old + (1 - forward_decay) * v in every training step; "
            "in warm-up, old is the mean of all v so far",
        ),
        Buffer(
            "gradient_average", _C, 0.0, "E; grows by mean((g - (1 - backward_decay) E z) z) in every backward pass"
        ),
        Buffer("step", (), 0, "training steps so far", counter=True),
    ),
    warm_up="the first warm_up steps (10000) divide by the batch's own v in place of phi",
    train_formula=(
        "x~ = x / rms of the channels in each of scaling_groups groups; v = mean(x~^2) over batch and positions; "
        "z = x~ / sqrt(phi + eps) with phi from before the step; y = weight z + bias"
    ),
    eval_formula="y = weight x~ / sqrt(phi + eps) + bias",
    gradient_rule=(
        "g = weight dy; g~ = g - (1 - backward_decay) E z; dx~ = g~ / sqrt(v + eps) with the batch's v; "
        "dweight = sum(dy z); dbias = sum(dy); the group scaling by the chain rule"
    ),
    derivative=False,
    affine_at_eval=False,
    not_affine=(
        "the group scaling divides each position by the rms of its channels; the rest folds into the next linear map"
    ),
    notes=(
        _NO_PADDING,
        "until the warm-up ends, v shows a token the later ones of its sequence; after that, and in evaluation, none",
    ),
)  # fmt: skip

UNIFIED_NORM = StateContract(
    buffers=(
        Buffer(
            "window_squares", ("window", "C"), 0.0,
            "mean squares of the last steps; slot step mod window takes q, in a skipped step running_var",
        ),
        Buffer(
            "window_gradients", ("backward_window", "C"), 0.0,
            "mean(g z) of the last backward passes, E in a skipped one",
        ),
        Buffer(
            "running_var", _C, 1.0,
            "decay * old + (1 - decay) * var in every training step, in a skipped one only with absorb_outliers",
        ),
        Buffer("gradient_average", _C, 0.0, "E; decay * E + (1 - decay) * m in every backward pass"),
        Buffer("step", (), 0, "training steps so far", counter=True),
        Buffer("skips", (), 0, "steps that the outlier filter has skipped", counter=True),
    ),
    warm_up=(
        "before step warm_up (4000), and until the window is full, var = q and m = mean(g z) of the batch itself; "
        "r is 1 up to step max(1000, warm_up)"
    ),
    train_formula=(
        "q = mean(x^2) over batch and positions; var = geometric mean of window_squares, but q in warm-up and when "
        "skipped; z = x / sqrt(var + eps); y = weight z + bias. With filter_outliers a step after warm-up is skipped "
        "if for any channel the arithmetic less the geometric mean of the window exceeds window times the variance "
        "that all of sqrt(window_squares) had before the step"
    ),
    eval_formula="y = weight x / sqrt(running_var + eps) + bias",
    gradient_rule=(
        "r = sqrt((var + eps) / (running_var + eps)) within 1/5 and 5, when skipped 1; g = weight r dy; "
        "m = mean of window_gradients; dx = (g - E z) / sqrt(var + eps) with the new E, when skipped with mean(g z); "
        "dweight = sum(dy r z); dbias = sum(dy)"
    ),
    derivative=False,
    affine_at_eval=True,
    notes=(_NO_PADDING, "in training, var shows a token the later ones of its sequence; in evaluation it does not"),
)  # fmt: skip

#: name -> fields of ``StatefulEntry``, contract
BUILTIN: dict[str, tuple[dict[str, Any], StateContract]] = {
    "power_norm": (
        {
            "formulas": {
                "btc": "(n := x / rms[c](x)) / rms[b,t](n)",
                "nchw": "(n := x / rms[c](x)) / rms[b,w,h](n)",
            },
            "source": "Shen et al. 2020, arXiv 2003.07845",
            "summary": "PowerNorm: running mean of squares, approximate backward",
            "where": "evonas.layers.stateful.power_norm:PowerNorm",
        },
        POWER_NORM,
    ),
    "unified_norm": (
        {
            "formulas": {"btc": "x / rms[b,t](x)", "nchw": "x / rms[b,w,h](x)"},
            "source": "Yang et al. 2022, arXiv 2208.01313",
            "summary": "Unified Normalization: geometric mean over a window, outlier filter",
            "where": "evonas.layers.stateful.unified_norm:UnifiedNorm",
        },
        UNIFIED_NORM,
    ),
}
