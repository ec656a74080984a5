"""What a proxy is, and the table of the three scales. No torch here: listing proxies must be quick.

Sizes and times of ``tiny`` were measured on one core; ``paper`` is the setting of Liu et al. 2020,
arXiv 2004.02967, section 4 and appendix, for the search of batch-independent layers (5,000 steps,
cosine); ``paper_b`` is its setting for layers with batch statistics (2,000 steps, constant rate).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from evonas.errors import UsageError

SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True, slots=True)
class ProxySpec:
    """Architecture and budget of one proxy.

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
    schedule: str = "cosine"
    momentum: float = 0.9
    nesterov: bool = True
    #: on weights of two and more axes; never on v0, v1, gamma, beta and biases.
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    #: largest norm of the gradient of all weights; None: not clipped.
    clip: float | None = None
    flip: bool = False
    #: side of the central window that validation sees, in pixels before pooling; None: the whole image.
    eval_crop: int | None = None
    eval_batch: int = 128
    #: the paper's quality test, and how many times chance it asks for.
    quality_steps: int = 100
    quality_threshold: float = 2.0
    #: the paper's stability test: ascent steps, images, rate and the limit of the gradient norm.
    stability_steps: int = 100
    stability_batch: int = 128
    stability_lr: float = 0.1
    stability_limit: float = 1e8

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise UsageError(f"schedule {self.schedule!r}, needed is one of {', '.join(SCHEDULES)}")
        for name in ("width", "crop", "batch", "steps", "lr", "pool", "divisor", "eval_batch"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}, needed is a number above 0")
        if self.crop % self.pool:
            raise UsageError(f"crop {self.crop} is not a multiple of pool {self.pool}")

    def replace(self, **changes: Any) -> ProxySpec:
        """A copy with other values. Raises UsageError for a field that does not exist."""
        unknown = set(changes) - set(self.__dataclass_fields__)
        if unknown:
            raise UsageError(
                f"a proxy has no field {sorted(unknown)[0]!r}",
                hint=f"fields are {', '.join(self.__dataclass_fields__)}",
            )
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


RESNET50 = (3, 4, 6, 3)
MOBILENET_V2 = (1, 2, 3, 4, 3, 3, 1)
EFFICIENTNET_B0 = (1, 2, 2, 3, 3, 4, 1)

_TINY: dict[str, Any] = {
    "crop": 24, "pool": 2, "batch": 32, "steps": 120, "divisor": 4, "head": 256, "kernel_limit": 3,
    "eval_batch": 100, "eval_crop": 24, "stability_steps": 10, "stability_batch": 8,
}  # fmt: skip
#: nine of MobileNetV2's 17 and of EfficientNet-B0's 16 blocks: every stage, every width.
_NINE = (1, 1, 2, 2, 1, 1, 1)
_SMALL: dict[str, Any] = {"crop": 24, "batch": 128, "steps": 1000, "lr": 0.1, "stability_batch": 64}
_PAPER: dict[str, Any] = {"crop": 24, "batch": 128, "steps": 5000, "lr": 0.1}
_PAPER_B: dict[str, Any] = {**_PAPER, "steps": 2000, "schedule": "constant"}

SCALES: dict[str, dict[str, ProxySpec]] = {
    "tiny": {
        "resnet": ProxySpec("resnet", 1 / 16, RESNET50, lr=0.07, strides=(1, 2, 1, 2, 2), **_TINY),
        "mobilenet": ProxySpec("mobilenet", 1 / 4, _NINE, lr=0.02, strides=(1, 2, 2, 2, 1), **_TINY),
        "efficientnet": ProxySpec("efficientnet", 1 / 4, _NINE, lr=0.02, strides=(1, 2, 2, 2, 1), **_TINY),
    },
    "small": {
        "resnet": ProxySpec("resnet", 1 / 8, RESNET50, **_SMALL),
        "mobilenet": ProxySpec("mobilenet", 1 / 4, MOBILENET_V2, **_SMALL),
        "efficientnet": ProxySpec("efficientnet", 1 / 4, EFFICIENTNET_B0, **_SMALL),
    },
    "paper": {
        "resnet": ProxySpec("resnet", 1 / 4, RESNET50, **_PAPER),
        "mobilenet": ProxySpec("mobilenet", 1 / 2, MOBILENET_V2, **_PAPER),
        "efficientnet": ProxySpec("efficientnet", 1 / 2, EFFICIENTNET_B0, **_PAPER),
    },
    "paper_b": {
        "resnet": ProxySpec("resnet", 1 / 4, RESNET50, **_PAPER_B),
        "mobilenet": ProxySpec("mobilenet", 1 / 2, MOBILENET_V2, **_PAPER_B),
        "efficientnet": ProxySpec("efficientnet", 1 / 2, EFFICIENTNET_B0, **_PAPER_B),
    },
}
