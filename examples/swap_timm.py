"""A layer into a model of timm: what is replaced, one training step, and the way back. Needs timm, no weights.

python examples/swap_timm.py
python examples/swap_timm.py mobilenetv2_100 "x * tanh(v1 * x) / rms[w,h](x)"
python examples/swap_timm.py vit_tiny_patch16_224 "norm: x / rms[c](x); act: x * sigmoid(v1 * x)"
"""

import argparse

import torch
from torch import nn

import evonas

try:
    import timm
except RuntimeError as error:  # torchvision, which timm imports, is of another build than torch
    raise SystemExit(
        f"error: {error}\n  -> take torch and torchvision from one index: pip install --force-reinstall torch "
        "torchvision --index-url https://download.pytorch.org/whl/cpu"
    ) from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="resnet18")
    parser.add_argument("layer", nargs="?", default="evonorm_s0")
    given = parser.parse_args()

    torch.manual_seed(0)
    model = timm.create_model(given.model, num_classes=10)
    size = model.patch_embed.img_size[0] if hasattr(model, "patch_embed") else 64
    images, labels = torch.randn(4, 3, size, size), torch.tensor([0, 1, 2, 3])

    report = evonas.swap(model, given.layer)
    print(report)

    # gains, biases and v0, v1 of layers are small vectors: no weight decay on them
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    optimiser = torch.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0}], lr=1e-3)
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimiser.step()
    with torch.no_grad():
        after = nn.functional.cross_entropy(model(images), labels)
    print(f"\nloss {loss:.3f}, after one step {after:.3f}")

    report.undo()
    print(f"undone: {type(model).__name__} has its own norms again")


if __name__ == "__main__":
    main()
