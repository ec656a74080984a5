"""Known layers as formulas. The per-channel affine comes after each formula and is not written; SimpleRMSNorm has none.

FRN's threshold and the learned threshold of a general TLU sit before the affine here: for a positive weight
max(weight * n + bias, t) = weight * max(n, v0) + bias with t = weight * v0 + bias, the same family of layers.
DyT and Derf have one scalar alpha (init 0.5) per layer in their papers: ``dyt_scalar`` and ``derf_scalar``. In ``dyt``
and ``derf`` it is 0.5 * v1, one per channel.
"""

from __future__ import annotations

from typing import NamedTuple


class ZooEntry(NamedTuple):
    """``formula`` in the language of ``evonas.graph.formula``; ``source`` is where the layer was published."""

    formula: str
    source: str
    summary: str
    affine: bool = True


_BN, _LN, _IN, _GN = "b,w,h", "w,h,c", "w,h", "w,h,c/g"
_NORMS = {
    "bn": ("batch normalization", _BN, "Ioffe and Szegedy 2015"),
    "gn": ("group normalization", _GN, "Wu and He 2018"),
    "in": ("instance normalization", _IN, "Ulyanov et al. 2016"),
    "ln": ("layer normalization over (w,h,c)", _LN, "Ba et al. 2016"),
}
_ACTIVATIONS = {
    "relu": "max({n}, 0)",
    "silu": "(n := {n}) * sigmoid(n)",
    "gelu": "(n := {n}) * (0.5 + 0.5 * erf(n * 0.7071067811865476))",
}
_EVONORM = "Liu et al. 2020"


def _normalized(index: str) -> str:
    return f"(x - mean[{index}](x)) / std[{index}](x)"


ZOO: dict[str, ZooEntry] = {
    f"{norm}_{act}": ZooEntry(form.format(n=_normalized(index)), source, f"{words}, then {act}")
    for norm, (words, index, source) in _NORMS.items()
    for act, form in _ACTIVATIONS.items()
} | {
    "frn": ZooEntry("max(x / rms[w,h](x), v0)", "Singh and Krishnan 2020", "filter response normalization with TLU"),
    "dyt": ZooEntry("tanh(0.5 * v1 * x)", "Zhu et al. 2025", "dynamic tanh"),
    "derf": ZooEntry("erf(0.5 * v1 * x + v0)", "arXiv 2512.10938", "dynamic erf"),
    "dyt_scalar": ZooEntry("tanh(0.5 * s1 * x)", "Zhu et al. 2025", "dynamic tanh, one alpha per layer"),
    "derf_scalar": ZooEntry("erf(0.5 * s1 * x + s0)", "arXiv 2512.10938", "dynamic erf, one alpha, one shift"),
    "rms_norm": ZooEntry("x / rms[c](x)", "Zhang and Sennrich 2019", "root mean square over channels, of tokens"),
    "simple_rms_norm": ZooEntry("x / rms[c](x)", "TransNormerLLM, Qin et al. 2023", "RMSNorm without gain", False),
    "layer_norm": ZooEntry("(x - mean[c](x)) / std[c](x)", "Ba et al. 2016", "layer normalization of tokens"),
    "evonorm_b0": ZooEntry("x / max(std[b,w,h](x), v1 * x + std[w,h](x))", _EVONORM, "best layer of the B search"),
    "evonorm_b1": ZooEntry("x / max(std[b,w,h](x), (x + 1) * rms[w,h](x))", _EVONORM, "second of the B search"),
    "evonorm_b2": ZooEntry("x / max(std[b,w,h](x), rms[w,h](x) - x)", _EVONORM, "third of the B search"),
    "evonorm_s0": ZooEntry("x * sigmoid(v1 * x) / std[w,h,c/g](x)", _EVONORM, "best layer of the S search"),
    "evonorm_s1": ZooEntry("x * sigmoid(x) / std[w,h,c/g](x)", _EVONORM, "second of the S search"),
    "evonorm_s2": ZooEntry("x * sigmoid(x) / rms[w,h,c/g](x)", _EVONORM, "third of the S search"),
    "relu": ZooEntry("max(x, 0)", "Nair and Hinton 2010", "no normalization: the control that must lose"),
    "silu": ZooEntry("x * sigmoid(x)", "Elfwing et al. 2018", "no normalization"),
    "gelu": ZooEntry("x * (0.5 + 0.5 * erf(x * 0.7071067811865476))", "Hendrycks and Gimpel 2016",
                     "no normalization"),
    "identity": ZooEntry("x", "evonas", "the affine alone"),
}  # fmt: skip
