"""Export a layer, then train a small network with it that knows nothing of evonas.

python examples/train_exported_layer.py
python examples/train_exported_layer.py --steps 100 "x * tanh(v1 * x) / rms[w,h](x)"
"""

import argparse
import importlib.util
import tempfile
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

import evonas


def load(bundle: Path) -> ModuleType:
    """What ``import layer`` gives in the folder of the bundle."""
    spec = importlib.util.spec_from_file_location("layer", bundle / "layer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def network(layer: type[nn.Module]) -> nn.Module:
    """Two convolutions with the exported layer behind them."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), layer(16), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), layer(32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2),
    )  # fmt: skip


def batch(generator: torch.Generator, size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with a bright stripe that lies (class 0) or stands (class 1)."""
    images = torch.randn((size, 1, 12, 12), generator=generator)
    kinds = torch.randint(2, (size,), generator=generator)
    for image, kind in zip(images, kinds, strict=True):
        where = int(torch.randint(12, (1,), generator=generator))
        (image[0, where] if kind == 0 else image[0, :, where]).add_(3.0)
    return images, kinds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("layer", nargs="?", default="evonorm_s0", help="a name, a formula or a file")
    parser.add_argument("--steps", type=int, default=40)
    given = parser.parse_args()

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        bundle = evonas.export(given.layer, out=Path(folder) / "bundle")
        print("wrote", ", ".join(bundle.files))
        model = network(load(bundle.path).Layer)

    generator = torch.Generator().manual_seed(1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(given.steps):
        images, kinds = batch(generator)
        loss = nn.functional.cross_entropy(model(images), kinds)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 10 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    images, kinds = batch(generator, 256)
    with torch.no_grad():
        right = (model.eval()(images).argmax(1) == kinds).float().mean()
    print(f"{right:.2f} of fresh images right after {given.steps} steps with {bundle.formula}")


if __name__ == "__main__":
    main()
