"""Models of transformers with small configurations, without weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from swap_support import numbers, swap_and_check
from torch import Tensor, nn

import evonas

SMALL: dict[str, Any] = {"vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
DECODER = SMALL | {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16,
}  # fmt: skip


def gpt2() -> nn.Module:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_layer=3, n_embd=32, n_head=2, n_positions=32, **SMALL)
    )


def llama() -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER))


def run(model: nn.Module) -> Tensor:
    out: Tensor = model(input_ids=torch.arange(24).reshape(2, 12)).logits
    return out


#: Two norms in each of 3 blocks and the last norm; one activation in each of 3 feed-forward parts.
NORMS, ACTS = 2 * 3 + 1, 3


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize(
    ("layer", "expected"),
    [("x / rms[c](x)", (NORMS, 0, ACTS)), ("rms_norm+silu", (NORMS + ACTS, 0, 0)), ("dyt+gelu", (NORMS + ACTS, 0, 0))],
)  # fmt: skip
def test_norms_and_activations_of_decoders(make: Any, layer: str, expected: tuple[int, int, int]) -> None:
    report = swap_and_check(make(), layer, run)
    assert numbers(report) == expected
    assert report.found == "seen in a run on 8 token ids"


def test_gain_and_bias_are_carried_over() -> None:
    """RMSNorm in place of Llama's RMSNorm, of the same epsilon, is the same function, whatever the gains."""
    model = llama()
    for module in model.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            nn.init.uniform_(module.weight, 0.5, 2)
    model.eval()
    before = run(model)
    evonas.swap(model, "x / rms[c](x)", eps=1e-6)
    torch.testing.assert_close(run(model), before, rtol=1e-4, atol=1e-5)


def test_gain_of_a_norm_that_adds_one_is_measured() -> None:
    """Gemma multiplies by 1 + weight."""
    model = transformers.GemmaForCausalLM(transformers.GemmaConfig(**DECODER))
    for module in model.modules():
        if type(module).__name__ == "GemmaRMSNorm":
            nn.init.uniform_(module.weight, -0.5, 1)
    model.eval()
    before = run(model)
    report = evonas.swap(model, "x / rms[c](x)", eps=1e-6)
    assert report.counts["layers"] == NORMS
    torch.testing.assert_close(run(model), before, rtol=1e-3, atol=1e-4)


def test_norms_of_heads_see_channels_alone() -> None:
    """Qwen3 normalises queries and keys over a head's channels, (B, T, H, C): not an image, so w and h do not exist."""
    model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**DECODER))
    report = evonas.swap(model, "x / rms[c](x)")
    assert report.counts["layers"] == NORMS + 2 * 3
    assert run(model).isfinite().all()
    report.undo()
    with pytest.raises(evonas.errors.UsageError, match=r"index set \[w,h\] needs h, w"):
        evonas.swap(model, "x / rms[w,h](x)")


def test_bfloat16_stays() -> None:
    model = llama().bfloat16().eval()
    evonas.swap(model, "rms_norm+silu")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert run(model).dtype == torch.bfloat16


def test_a_decoder_stays_causal_and_caches() -> None:
    """Generation with a cache and without are the same."""
    model = llama().eval()
    evonas.swap(model, "rms_norm+silu")
    ids = torch.arange(6)[None]
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        first = model(input_ids=ids[:, :4], use_cache=True)
        rest = model(input_ids=ids[:, 4:], cache=first.past_key_values).logits
    torch.testing.assert_close(torch.cat([first.logits, rest], 1), whole, rtol=1e-4, atol=1e-5)


def test_an_encoder_and_a_decoder_run_on_the_models_own_dummy_inputs() -> None:
    config = transformers.T5Config(d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, vocab_size=64)
    model = transformers.T5ForConditionalGeneration(config)
    report = evonas.swap(model, "rms_norm+silu")
    # norms of 2 encoder blocks with two parts, 2 decoder blocks with three, one last norm each; an activation per block
    assert numbers(report) == (2 * 2 + 2 * 3 + 2 + 4, 0, 0)
    assert report.found == "seen in a run on its dummy inputs"
    ids = torch.arange(6)[None]
    assert model(input_ids=ids, decoder_input_ids=ids).logits.isfinite().all()
