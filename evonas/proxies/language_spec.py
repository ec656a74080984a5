"""What a language model as a proxy is, and the table of its scales. No torch here.

Sizes and times of ``tiny`` were measured on one core. ``paper`` is the smallest model of the published table of
TransNormerLLM (arXiv 2307.14995) in width and heads and a Transformer of the same size, with bytes as tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evonas.data.vocabulary import BYTES, TOKENIZERS
from evonas.errors import UsageError
from evonas.proxies.spec import (
    COMMON_RULES,
    FLAG,
    POSITIVE,
    Rule,
    Spec,
    as_tuple,
    number,
    one_of,
    optional,
    whole,
)

if TYPE_CHECKING:
    from typing_extensions import Self

FFN = ("swiglu", "mlp")
DECAYS = ("code", "paper")
LRPE = ("first", "all", "none")

#: by tokenizer: the quality test's share of the unigram entropy. After the few steps of ``tiny`` a model of 1,024 byte
#: pairs has hardly left that entropy (known layers are at 0.94 to 1.001 of it, of bytes at 0.79 to 0.87), but guessing
#: at random is at 1.16, and networks without norms have diverged.
QUALITY = {"byte": 0.93, "bpe": 1.03}

_RULES: dict[str, Rule] = {
    **COMMON_RULES,
    **{
        name: whole(1)
        for name in ("width", "depth", "heads", "sequence", "vocabulary", "eval_windows", "base_width")
    },
    "ffn": one_of(FFN),
    "hidden": POSITIVE,
    "post_norms": FLAG,
    "decay": one_of(DECAYS),
    "lrpe": one_of(LRPE),
    "tokenizer": one_of(TOKENIZERS),
    "init": optional(POSITIVE),
    "embedding": POSITIVE,
    "hurdle": POSITIVE,
    "stability_sequence": whole(1),
    "quality_threshold": number("a number above 0, a share of the unigram entropy", lambda v: v > 0),
}


@dataclass(frozen=True, slots=True)
class LanguageSpec(Spec):
    """Architecture and budget of a language model. Raises UsageError for values of another type or out of range.

    ``width``: features of a token. ``depth``: blocks of attention and feed-forward network. ``heads``: must divide
    ``width`` into heads of an even size, which RoPE and LRPE need. ``sequence``: tokens of a training window.
    ``batch``: windows a step.
    """

    network: str
    width: int
    depth: int
    heads: int
    sequence: int
    batch: int
    steps: int
    lr: float
    #: of the Transformer: "swiglu", or "mlp" with one matrix up, the activation and one down.
    ffn: str = "swiglu"
    #: features inside the feed-forward network, as a multiple of ``width``; rounded to a multiple of 8.
    hidden: float = 8 / 3
    #: of the Transformer: whether layers stand in the slots post_attention and post_ffn too.
    post_norms: bool = False
    #: of the TransNormer: schedule of the decay, as released or as printed.
    decay: str = "code"
    #: of the TransNormer: in which layers linearized relative positions are.
    lrpe: str = "first"
    tokenizer: str = "byte"
    vocabulary: int = BYTES
    #: standard deviation of matrices at the start; None: 1 / sqrt(fan-in). And of embeddings.
    init: float | None = None
    embedding: float = 0.02
    schedule: str = "cosine"
    optimiser: str = "adamw"
    #: share of the steps over which the rate rises to ``lr``.
    warmup: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    #: of adamw and adamp.
    betas: tuple[float, float] = (0.9, 0.95)
    #: on weights of two and more axes; never on embeddings, vectors and the parameters of layers.
    weight_decay: float = 0.1
    label_smoothing: float = 0.0
    #: largest norm of the gradient of all weights; None: not clipped.
    clip: float | None = 1.0
    #: width at which both parametrizations are the same, for muP.
    base_width: int = 64
    #: windows of ``sequence`` tokens that are scored, spread evenly over the validation part.
    eval_windows: int = 128
    eval_batch: int = 32
    #: the quality test: validation loss after so many steps, below so large a share of the unigram entropy.
    quality_steps: int = 100
    quality_threshold: float = QUALITY["byte"]
    #: the hurdle before it: training loss below so large a share of the unigram entropy.
    hurdle: float = 1.4
    #: the stability test: ascent steps, windows and their tokens, rate and the limit of the gradient norm.
    stability_steps: int = 100
    stability_batch: int = 8
    stability_sequence: int = 64
    stability_lr: float = 0.1
    stability_limit: float = 1e8

    def __post_init__(self) -> None:
        as_tuple(self, "betas")
        self.check(_RULES)
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise UsageError(
                f"heads is {self.heads} and width is {self.width}: heads of {self.width / self.heads:g} features, "
                "needed is an even whole number, because positions turn pairs of features",
                hint=f"set width to a multiple of {2 * self.heads}",
            )
        if self.tokenizer == "byte" and self.vocabulary != BYTES:
            raise UsageError(
                f"vocabulary is {self.vocabulary} and tokenizer is 'byte', which has {BYTES} tokens",
                hint=f"set vocabulary to {BYTES}, or tokenizer to bpe",
            )
        if self.tokenizer == "bpe" and self.vocabulary <= BYTES:
            raise UsageError(
                f"vocabulary is {self.vocabulary} and tokenizer is 'bpe', needed are more than the {BYTES} bytes",
                hint="set vocabulary to 1024",
            )

    def replace(self, **changes: Any) -> Self:
        """As ``Spec.replace``; another tokenizer brings its own quality threshold, unless there is another here."""
        new = changes.get("tokenizer", self.tokenizer)
        if new != self.tokenizer and self.quality_threshold == QUALITY[self.tokenizer]:
            changes = {"quality_threshold": QUALITY.get(new, QUALITY["byte"]), **changes}
        # named, because slots make another class than the one that super() sees
        return super(LanguageSpec, self).replace(**changes)

    @property
    def features(self) -> int:
        """Inside the feed-forward network."""
        return max(8, round(self.hidden * self.width / 8) * 8)


_TINY: dict[str, Any] = {
    "width": 64, "depth": 8, "heads": 4, "sequence": 64, "batch": 16, "steps": 120, "lr": 0.006, "warmup": 0.05,
    "quality_steps": 30, "stability_steps": 10, "stability_batch": 2,
}  # fmt: skip
_SMALL: dict[str, Any] = {
    "width": 256, "depth": 8, "heads": 4, "sequence": 256, "batch": 32, "steps": 2000, "lr": 0.002,
    "warmup": 0.02, "eval_windows": 256,
}  # fmt: skip
_PAPER: dict[str, Any] = {
    "width": 1024, "depth": 24, "heads": 8, "sequence": 1024, "batch": 64, "steps": 20_000, "lr": 0.0005,
    "warmup": 0.005, "init": 0.02,
    "eval_windows": 512, "stability_sequence": 128,
}  # fmt: skip
#: TransNormerLLM's feed-forward network: 2816 features for 1024.
_SGLU: dict[str, Any] = {"hidden": 2.75}

#: Few steps do not bring small embeddings to where DyT and Derf, which do not rescale, can work with them; and with
#: large ones a deep network without norms explodes, as it should.
_WIDE_START: dict[str, dict[str, Any]] = {"tiny": {"embedding": 1.0}, "small": {"embedding": 1.0}}

LANGUAGE_SCALES: dict[str, dict[str, LanguageSpec]] = {
    scale: {
        "transformer": LanguageSpec("transformer", **{**sizes, **_WIDE_START.get(scale, {})}),
        "transnormer": LanguageSpec("transnormer", **{**sizes, **_SGLU}),
    }
    for scale, sizes in (("tiny", _TINY), ("small", _SMALL), ("paper", _PAPER))
}
