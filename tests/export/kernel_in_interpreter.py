"""Runs in a process with TRITON_INTERPRET=1: a bundle's kernels against its eager form. python THIS BUNDLE SHAPE.

Every kernel of both passes is run, also those that the tensor's size would not choose, and their grids are kept small:
the interpreter runs one program after another.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from export_support import load, off, results, stir

folder, shape = Path(sys.argv[1]), tuple(map(int, sys.argv[2].split(",")))
module = load(folder)
kernel = module._kernel
assert kernel is not None
channels = shape[1] if len(shape) == 4 else shape[-1]
generator = torch.Generator().manual_seed(0)
x, dy = (torch.randn(shape, generator=generator) for _ in range(2))
kernel.PROCESSORS = 2
count, worst = 0, 0.0
first = kernel._first
most = max(len(k) for p in kernel.PASSES.values() for k in (p.forward, p.backward))
options = {"groups": 2} if "c/g" in module.__doc__ else {}
for chosen in range(most):
    kernel._first = lambda kernels, sizes, n=chosen: first(kernels[min(n, len(kernels) - 1) :], sizes)
    eager = stir(module.Layer(channels, **options))
    fused = module.Layer(channels, **options)
    fused.load_state_dict(eager.state_dict())
    for training in (True, False):
        eager.train(training)
        fused.train(training)
        module._kernel = None
        wanted = results(eager, x, dy)
        module._kernel = kernel
        assert kernel.takes(fused, x)
        found = results(fused, x, dy)
        worst = max(worst, *(off(found[n], wanted[n]) for n in wanted))
        for name, value in eager.state_dict().items():
            worst = max(worst, off(fused.state_dict()[name], value))
        count += 1
kernel._first = first
# what kernels do not take runs on the eager form
assert not kernel.takes(fused, x.double())
assert not kernel.takes(fused, x.transpose(0, 1) if len(set(shape[:2])) > 1 else x.mT)
torch.library.opcheck(
    kernel.layer_forward,
    (x.requires_grad_(), [getattr(fused, n).detach().requires_grad_() for n in kernel.VECTORS], [], True,
     getattr(fused, "groups", 1)),
    test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
)  # fmt: skip
print(f"{count} {worst}")
