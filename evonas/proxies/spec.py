"""What a proxy on images is, and the table of its scales. No torch here: listing proxies must be quick.

Sizes and times of ``tiny`` were measured on one core; ``paper`` is the setting of Liu et al. 2020,
arXiv 2004.02967, section 4 and appendix, for the search of batch-independent layers (5,000 steps,
cosine); ``paper_b`` is its setting for layers with batch statistics (2,000 steps, constant rate).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from evonas.errors import UsageError

if TYPE_CHECKING:
    from typing_extensions import Self

#: what a field may hold: in words, and as a function.
Rule = tuple[str, Callable[[Any], bool]]
SCHEDULES = ("constant", "cosine")
OPTIMISERS = ("sgd", "adamw", "sgdp", "adamp")
RESNET50 = (3, 4, 6, 3)
MOBILENET_V2 = (1, 2, 3, 4, 3, 3, 1)
EFFICIENTNET_B0 = (1, 2, 2, 3, 3, 4, 1)
SOFT_TINY = (1, 2, 3, 2)
#: the built-in networks and their number of stages.
STAGES = {
    "resnet": len(RESNET50),
    "mobilenet": len(MOBILENET_V2),
    "efficientnet": len(EFFICIENTNET_B0),
    "soft": len(SOFT_TINY),
}


def whole(low: int) -> Rule:
    return f"a whole number, at least {low}", lambda v: type(v) is int and v >= low


def number(words: str, fits: Callable[[float], bool]) -> Rule:
    return words, lambda v: type(v) in (int, float) and math.isfinite(v) and fits(v)


def one_of(names: Sequence[str]) -> Rule:
    return f"one of {', '.join(names)}", lambda v: v in names


def optional(rule: Rule) -> Rule:
    return f"{rule[0]}, or None", lambda v: v is None or rule[1](v)


TEXT = ("a name", lambda v: isinstance(v, str) and v != "")
FLAG = ("true or false", lambda v: isinstance(v, bool))
POSITIVE = number("a number above 0", lambda v: v > 0)
FROM_ZERO = number("a number, at least 0", lambda v: v >= 0)
_COUNTS = ("whole numbers, each at least 1", lambda v: bool(v) and all(type(n) is int and n >= 1 for n in v))

#: of the fields that all kinds of proxies have.
COMMON_RULES: dict[str, Rule] = {
    "network": TEXT,
    **{name: whole(1) for name in ("batch", "steps", "eval_batch", "quality_steps", "stability_batch")},
    "lr": POSITIVE,
    "schedule": one_of(SCHEDULES),
    "optimiser": one_of(OPTIMISERS),
    "warmup": number("a number from 0 to below 1", lambda v: 0 <= v < 1),
    "momentum": number("a number from 0 to below 1", lambda v: 0 <= v < 1),
    "nesterov": FLAG,
    "betas": (
        "two numbers from 0 to below 1",
        lambda v: len(v) == 2 and all(type(b) in (int, float) and 0 <= b < 1 for b in v),
    ),
    "weight_decay": FROM_ZERO,
    "label_smoothing": number("a number from 0 to below 1", lambda v: 0 <= v < 1),
    "clip": optional(POSITIVE),
    "quality_threshold": FROM_ZERO,
    "stability_steps": whole(0),
    "stability_lr": POSITIVE,
    "stability_limit": POSITIVE,
}
_RULES: dict[str, Rule] = {
    **COMMON_RULES,
    "width": POSITIVE,
    "depth": _COUNTS,
    **{name: whole(1) for name in ("crop", "pool", "divisor", "kernel_limit", "head")},
    "strides": ("five whole numbers, each at least 1", lambda v: len(v) == 5 and _COUNTS[1](v)),
    "flip": FLAG,
    "eval_crop": optional(whole(1)),
    "base_width": optional(POSITIVE),
    "landmarks": ("three whole numbers, each at least 1", lambda v: len(v) == 3 and _COUNTS[1](v)),
}


def as_tuple(spec: Any, name: str) -> None:
    """A list of a frozen spec, as configuration files give it, becomes a tuple."""
    value = getattr(spec, name)
    object.__setattr__(spec, name, tuple(value) if isinstance(value, (tuple, list)) else ())


class Spec:
    """What the specs of all kinds of proxies do with their fields."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def check(self, rules: Mapping[str, Rule]) -> None:
        """``UsageError`` for the first field that does not fit its rule."""
        for name, (needed, fits) in rules.items():
            value = getattr(self, name)
            if not fits(value):
                raise UsageError(f"{name} is {value!r}, needed is {needed}")

    def replace(self, **changes: Any) -> Self:
        """A copy with other values; a list is taken for a tuple.

        Raises UsageError for a field that does not exist, for a value that does not fit it, and for another
        ``network``, which is the name of the proxy.
        """
        unknown = set(changes) - set(self.__dataclass_fields__)
        if unknown:
            raise UsageError(
                f"a proxy has no field {sorted(unknown)[0]!r}",
                hint=f"fields are {', '.join(self.__dataclass_fields__)}",
            )
        network = getattr(self, "network")  # noqa: B009
        if changes.get("network", network) != network:
            raise UsageError(
                f"network is {changes['network']!r}, it cannot be changed: this proxy is made of {network!r}",
                hint="name another proxy, --proxies",
            )
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ProxySpec(Spec):
    """Architecture and budget of one proxy. Raises UsageError for values of another type or out of range.

    ``depth``: blocks per stage. ``width``: multiplies the channels of the original network, rounded to a
    multiple of ``divisor``. ``strides``: of the network's five spatial reductions, in order (the original
    is 2 five times; the paper's proxies do the first two at 1). ``crop``: side of the random training
    crop in pixels; validation sees the whole image. ``pool``: then the input is averaged over
    pool x pool pixels.
    """

    network: str
    width: float
    depth: tuple[int, ...]
    crop: int
    batch: int
    steps: int
    lr: float
    pool: int = 1
    strides: tuple[int, ...] = (1, 1, 2, 2, 2)
    divisor: int = 8
    #: the largest kernel; wider ones (7x7 stem, 5x5 depthwise) become this, for maps of few pixels.
    kernel_limit: int = 7
    #: channels of the last 1x1 convolution of MobileNetV2 and EfficientNet, before ``width``.
    head: int = 1280
    #: of SOFT: sides of the squares of tokens that become one landmark, for the stages without softmax.
    landmarks: tuple[int, ...] = (8, 4, 2)
    schedule: str = "cosine"
    optimiser: str = "sgd"
    #: share of the steps over which the rate rises to ``lr``.
    warmup: float = 0.0
    momentum: float = 0.9
    nesterov: bool = True
    #: of adamw and adamp.
    betas: tuple[float, float] = (0.9, 0.95)
    #: on weights of two and more axes; never on v0, v1, gamma, beta and biases.
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    #: largest norm of the gradient of all weights; None: not clipped.
    clip: float | None = None
    flip: bool = False
    #: side of the central window that validation sees, in pixels before pooling; None: the whole image.
    eval_crop: int | None = None
    eval_batch: int = 128
    #: ``width`` at which both parametrizations are the same, for muP; None: there is none.
    base_width: float | None = None
    #: the paper's quality test, and how many times chance it asks for.
    quality_steps: int = 100
    quality_threshold: float = 2.0
    #: the paper's stability test: ascent steps, images, rate and the limit of the gradient norm.
    stability_steps: int = 100
    stability_batch: int = 128
    stability_lr: float = 0.1
    stability_limit: float = 1e8

    def __post_init__(self) -> None:
        for name in ("depth", "strides", "landmarks"):
            value = getattr(self, name)
            if not isinstance(value, (tuple, list)):
                raise UsageError(f"{name} is {value!r}, needed is a list of whole numbers, each at least 1")
            object.__setattr__(self, name, tuple(value))
        as_tuple(self, "betas")
        self.check(_RULES)
        stages = STAGES.get(self.network, len(self.depth))
        if len(self.depth) != stages:
            raise UsageError(
                f"depth is {self.depth!r}, needed are {stages} whole numbers: {self.network} has {stages} stages"
            )
        for name in ("crop", "eval_crop"):
            value = getattr(self, name)
            if value is not None and value % self.pool:
                raise UsageError(f"{name} is {value}, needed is a multiple of pool, {self.pool}")


_TINY: dict[str, Any] = {
    "crop": 24, "pool": 2, "batch": 32, "steps": 120, "divisor": 4, "head": 256, "kernel_limit": 3,
    "eval_batch": 100, "eval_crop": 24, "stability_steps": 10, "stability_batch": 8,
}  # fmt: skip
#: nine of MobileNetV2's 17 and of EfficientNet-B0's 16 blocks: every stage, every width.
_NINE = (1, 1, 2, 2, 1, 1, 1)
#: SOFT trains with AdamW and a warm-up, as vision transformers do.
_ADAM: dict[str, Any] = {
    "optimiser": "adamw", "weight_decay": 0.05, "warmup": 0.1, "clip": 1.0, "base_width": 1 / 4,
}  # fmt: skip
_SMALL: dict[str, Any] = {"crop": 24, "batch": 128, "steps": 1000, "lr": 0.1, "stability_batch": 64}
_PAPER: dict[str, Any] = {"crop": 24, "batch": 128, "steps": 5000, "lr": 0.1}
_PAPER_B: dict[str, Any] = {**_PAPER, "steps": 2000, "schedule": "constant"}

SCALES: dict[str, dict[str, ProxySpec]] = {
    "tiny": {
        "resnet": ProxySpec(
            "resnet", 1 / 16, RESNET50, base_width=1 / 16, lr=0.07, strides=(1, 2, 1, 2, 2), **_TINY
        ),
        "mobilenet": ProxySpec(
            "mobilenet", 1 / 4, _NINE, base_width=1 / 4, lr=0.02, strides=(1, 2, 2, 2, 1), **_TINY
        ),
        "efficientnet": ProxySpec(
            "efficientnet", 1 / 4, _NINE, base_width=1 / 4, lr=0.02, strides=(1, 2, 2, 2, 1), **_TINY
        ),
        "soft": ProxySpec(
            "soft",
            1 / 4,
            (1, 1, 2, 1),
            lr=0.001,
            strides=(2, 1, 1, 2, 1),
            landmarks=(2, 2, 1),
            **{**_TINY, **_ADAM},
        ),
    },
    "small": {
        "resnet": ProxySpec("resnet", 1 / 8, RESNET50, base_width=1 / 16, **_SMALL),
        "mobilenet": ProxySpec("mobilenet", 1 / 4, MOBILENET_V2, base_width=1 / 4, **_SMALL),
        "efficientnet": ProxySpec("efficientnet", 1 / 4, EFFICIENTNET_B0, base_width=1 / 4, **_SMALL),
        "soft": ProxySpec("soft", 1 / 4, SOFT_TINY, **{**_SMALL, "lr": 0.001}, **_ADAM),
    },
    "paper": {
        "resnet": ProxySpec("resnet", 1 / 4, RESNET50, base_width=1 / 16, **_PAPER),
        "mobilenet": ProxySpec("mobilenet", 1 / 2, MOBILENET_V2, base_width=1 / 4, **_PAPER),
        "efficientnet": ProxySpec("efficientnet", 1 / 2, EFFICIENTNET_B0, base_width=1 / 4, **_PAPER),
        "soft": ProxySpec("soft", 1 / 2, SOFT_TINY, **{**_PAPER, "lr": 0.001}, **_ADAM),
    },
    "paper_b": {
        "resnet": ProxySpec("resnet", 1 / 4, RESNET50, base_width=1 / 16, **_PAPER_B),
        "mobilenet": ProxySpec("mobilenet", 1 / 2, MOBILENET_V2, base_width=1 / 4, **_PAPER_B),
        "efficientnet": ProxySpec("efficientnet", 1 / 2, EFFICIENTNET_B0, base_width=1 / 4, **_PAPER_B),
        "soft": ProxySpec("soft", 1 / 2, SOFT_TINY, **{**_PAPER_B, "lr": 0.001}, **_ADAM),
    },
}
