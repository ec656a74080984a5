"""How each primitive is written in an exported file, and the small functions that some of them need there.

Primitives that are not in the table (plug-ins, say) are copied from the source of their definition, see ``inlining``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spelling:
    """text: an expression with {0}, {1}; precedence: as in Python, 100 for a call. helpers: functions that it calls.

    name: what a person calls the value.
    """

    text: str
    precedence: int
    name: str
    helpers: tuple[str, ...] = ()


CALL = 100

SPELLINGS: dict[str, Spelling] = {
    "add": Spelling("{0} + {1}", 10, "total"),
    "sub": Spelling("{0} - {1}", 10, "difference"),
    "mul": Spelling("{0} * {1}", 20, "product"),
    "div": Spelling("divide({0}, {1}, self.eps)", CALL, "ratio", ("divide",)),
    "neg": Spelling("-{0}", 30, "negative"),
    "max": Spelling("torch.maximum({0}, {1})", CALL, "larger"),
    "min": Spelling("torch.minimum({0}, {1})", CALL, "smaller"),
    "sigmoid": Spelling("torch.sigmoid({0})", CALL, "gate"),
    "tanh": Spelling("torch.tanh({0})", CALL, "bounded"),
    "exp": Spelling("torch.exp({0})", CALL, "power"),
    "erf": Spelling("torch.erf({0})", CALL, "erf"),
    "abs": Spelling("torch.abs({0})", CALL, "size"),
    "square": Spelling("torch.square({0})", CALL, "squared"),
    "sign": Spelling("torch.sign({0})", CALL, "sign"),
    "log": Spelling("signed_log({0}, self.eps)", CALL, "logarithm", ("signed_log",)),
    "sqrt": Spelling("signed_sqrt({0}, self.eps)", CALL, "root", ("signed_sqrt",)),
    "rsqrt": Spelling("inverse_sqrt({0}, self.eps)", CALL, "inverse", ("inverse_sqrt",)),
    "step": Spelling("heaviside({0})", CALL, "step", ("heaviside",)),
    "mean": Spelling("{0}.mean({dims}, keepdim=True)", CALL, "mean"),
    "rms": Spelling("root_mean_square({0}, {dims}, self.eps)", CALL, "rms", ("root_mean_square",)),
    "std": Spelling("standard_deviation({0}, {dims}, self.eps)", CALL, "std", ("standard_deviation",)),
    "cmean": Spelling("causal_mean({0}, {dims})", CALL, "mean_so_far", ("tokens_so_far", "causal_mean")),
    "crms": Spelling(
        "causal_rms({0}, {dims}, self.eps)", CALL, "rms_so_far", ("tokens_so_far", "causal_rms")
    ),
    "cstd": Spelling(
        "causal_std({0}, {dims}, self.eps)", CALL, "std_so_far", ("tokens_so_far", "causal_std")
    ),
}

HELPERS: dict[str, str] = {
    "divide": '''
def divide(a: Tensor, b: Tensor, eps: float) -> Tensor:
    """a / b, where a denominator closer to zero than eps counts as eps (with the sign of b)."""
    size = torch.clamp_min(torch.abs(b), eps)
    return a / torch.where(b < 0, -size, size)
''',
    "signed_log": '''
def signed_log(a: Tensor, eps: float) -> Tensor:
    """sign(a) * log(|a| + eps)."""
    return torch.sign(a) * torch.log(torch.abs(a) + eps)
''',
    "signed_sqrt": '''
def signed_sqrt(a: Tensor, eps: float) -> Tensor:
    """sign(a) * sqrt(|a|), smooth at zero."""
    return a / torch.sqrt(torch.abs(a) + eps)
''',
    "inverse_sqrt": '''
def inverse_sqrt(a: Tensor, eps: float) -> Tensor:
    """1 / sqrt(|a| + eps)."""
    return 1.0 / torch.sqrt(torch.abs(a) + eps)
''',
    "heaviside": '''
def heaviside(a: Tensor) -> Tensor:
    """0 below zero, 1 above, 1/2 at zero."""
    return 0.5 * torch.sign(a) + 0.5
''',
    "root_mean_square": '''
def root_mean_square(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """sqrt(mean(x^2) + eps) over dims, which stay with size one."""
    return torch.sqrt((x * x).mean(dims, keepdim=True) + eps)
''',
    "tokens_so_far": '''
def tokens_so_far(x: Tensor) -> Tensor:
    """1, 2, ... along axis 1, the tokens."""
    count = torch.arange(1, x.shape[1] + 1, dtype=x.dtype, device=x.device)
    return count.view(1, -1, *[1] * (x.dim() - 2))
''',
    "causal_mean": '''
def causal_mean(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Mean over the tokens up to the present one (the first of dims), and over the other dims."""
    token = x.mean(dims[1:], keepdim=True) if len(dims) > 1 else x
    first = token[:, :1]
    return first + torch.cumsum(token - first, 1) / tokens_so_far(token)
''',
    "causal_rms": '''
def causal_rms(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """sqrt(mean(x^2) + eps) over the tokens up to the present one, and over the other dims."""
    token = (x * x).mean(dims[1:], keepdim=True) if len(dims) > 1 else x * x
    return torch.sqrt(torch.cumsum(token, 1) / tokens_so_far(token) + eps)
''',
    "causal_std": '''
def causal_std(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """sqrt(variance + eps) over the tokens up to the present one, and over the other dims: Welford's sums."""
    token, within = x, torch.zeros_like(x)
    if len(dims) > 1:
        token = x.mean(dims[1:], keepdim=True)
        within = (x - token).square().mean(dims[1:], keepdim=True)
    count = tokens_so_far(token)
    away = token - token[:, :1]
    before = (torch.cumsum(away, 1) - away) / torch.clamp_min(count - 1.0, 1.0)
    step = away - before
    total = torch.cumsum(within + step * step * ((count - 1.0) / count), 1)
    return torch.sqrt(total / count + eps)
''',
    "standard_deviation": '''
def standard_deviation(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """sqrt(variance + eps) over dims, which stay with size one; the variance is biased, in two passes."""
    centred = x - x.mean(dims, keepdim=True)
    return torch.sqrt((centred * centred).mean(dims, keepdim=True) + eps)
''',
}
