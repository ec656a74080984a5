"""A layer with state of your own: each channel divided by a running root mean square that its gradient does not see.

Used as a baseline of a search:

    evonas search --space norm_act --plugin examples/own_stateful_layer.py --candidates 1 \
        --set 'search.baselines=["streaming_rms"]' --set 'evaluation.proxies=["resnet"]' --set rerank.seeds=1

What it declares:

    evonas show streaming_rms --plugin examples/own_stateful_layer.py

By itself, in training, and folded into the linear map before it:

    python examples/own_stateful_layer.py
"""

import torch
from torch import nn

import evonas
from evonas.layers import Buffer, StateContract, StatefulLayer, fold, stateful_layer


@stateful_layer(
    "streaming_rms",
    formulas={"btc": "x / rms[b,t](x)", "nchw": "x / rms[b,w,h](x)"},
    source="this example",
)
class StreamingRMS(StatefulLayer):
    """x over a running root mean square per channel"""

    contract = StateContract(
        buffers=(
            Buffer(
                "square", ("C",), 1.0, "0.99 * old + 0.01 * mean square over batch and positions, every step"
            ),
        ),
        warm_up="none",
        train_formula="x / sqrt(square + eps), square from before the step",
        eval_formula="x / sqrt(square + eps)",
        gradient_rule="the derivative; square is from earlier steps and constant",
        derivative=True,
        affine_at_eval=True,
    )

    def train_form(self, x: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
        y = self.with_affine(x * torch.rsqrt(self.square + self.eps).to(x.dtype))
        with torch.no_grad():
            squares = x.square() if kept is None else x.square() * kept
            count = x[..., 0].numel() if kept is None else kept.sum().clamp(min=1)
            self.square.lerp_((squares.sum((0, 1)) / count).to(self.square.dtype), 0.01)
        return y

    def eval_affine(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.folded(torch.rsqrt(self.square + self.eps))


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 16), evonas.layer("streaming_rms").module(16), nn.ReLU(), nn.Linear(16, 1)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(200):
        x = torch.randn(4, 10, 8)
        loss = (model(x) - x.square().mean(-1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss {loss:.3f}, running mean square {model[1].square.mean():.3f}")
    print(fold(model, example=torch.randn(4, 10, 8)))


if __name__ == "__main__":
    main()
