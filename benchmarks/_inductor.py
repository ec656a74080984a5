"""Bytes and kernels of ``torch.compile`` (Inductor) for one layer, counted on a machine without a GPU.

Forward and backward are traced and partitioned by AOTAutograd on fake CPU tensors, as ``torch.compile`` does it.
The two graphs are then moved to fake CUDA tensors, and Inductor lowers, fuses and writes its Triton source for
an assumed H100-class device. Nothing is compiled by Triton and nothing runs. Autograd itself cannot be traced on
fake CUDA tensors in a CPU build, hence the two steps.

What is counted is Inductor's own figure (``GraphLowering.count_bytes``): per kernel, every buffer that it reads or
writes, once. This flatters Inductor twice. A looped reduction that sweeps its input two times counts it once,
and the partial sums that a fused row-and-column reduction leaves in a workspace are not in it; they are
``workspace_bytes``.

The assumed device is patched into torch, for the duration of a call only. Use a process of its own all the same
(``inductor_traffic.py`` does): Inductor caches what it learned about the device in more places than one can clear.
"""

from __future__ import annotations

import contextlib
import re
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from evonas.errors import EnvironmentUnusable, UsageError

DEVICE_NAME = "H100 or H200: sm_90, 132 multiprocessors, 65536 registers and 2048 threads each"
_DEVICE = torch.device("cuda", 0)
_CAPABILITY = (9, 0)
_PROPERTIES = types.SimpleNamespace(
    name="NVIDIA H100",
    major=_CAPABILITY[0],
    minor=_CAPABILITY[1],
    multi_processor_count=132,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    warp_size=32,
    L2_cache_size=50 * 2**20,
    shared_memory_per_block_optin=232448,
    total_memory=80 * 2**30,
)
_WORKSPACE = re.compile(r"workspace_\d+ = empty_strided_cuda\(\((\d+), \), \(1, \), torch\.(\w+)\)")
#: Triton kernels, calls of library kernels, and the second round of a reduction over a workspace.
_LAUNCHES = re.compile(
    r"^ +(?:\w+\.run\(|extern_kernels\.|buf\d+ = torch\.ops\.|\w+ = workspace_\d+\[)", re.M
)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes to and from the device's memory and kernel launches of one forward and one backward pass.

    x_bytes: size of the input, the unit of ``forward_units`` and ``backward_units``; a kernel that reads x once and
    writes y once moves 2 units forward, and 3 backward. workspace_bytes: partial sums, each written once and read
    once, which Inductor leaves out of the other figures.
    """

    forward_bytes: int
    backward_bytes: int
    forward_kernels: int
    backward_kernels: int
    x_bytes: int
    workspace_bytes: int

    @property
    def forward_units(self) -> float:
        """Bytes of the forward pass in sizes of x."""
        return self.forward_bytes / self.x_bytes

    @property
    def backward_units(self) -> float:
        """Bytes of the backward pass in sizes of x."""
        return self.backward_bytes / self.x_bytes


def inductor_traffic(
    layer: nn.Module | Callable[..., Tensor],
    example_inputs: Sequence[Tensor],
    dtype: torch.dtype = torch.bfloat16,
) -> Traffic:
    """What Inductor's kernels for a layer and its gradients move.

    Args:
        layer: a module that is called with ``example_inputs``, or a function of tensors that has no other tensors
            than these. It returns one tensor.
        example_inputs: x first; shapes, strides and dtypes are used and values are not, so fake and meta tensors
            do. The gradient is taken for x, for other inputs that require it, and for a module's parameters.
        dtype: of x. Other inputs, a module's parameters and its buffers keep their own: bfloat16 activations and
            float32 parameters are what automatic mixed precision trains with.

    Raises:
        UsageError: no input, or a result that does not depend on anything with a gradient.
        EnvironmentUnusable: no Triton, or a torch whose Inductor has other internals than the ones used here.
    """
    if not example_inputs:
        raise UsageError(
            "no example input", hint="give x, for example torch.empty(128, 256, 32, 32, device='meta')"
        )
    try:
        mode = FakeTensorMode()
        function, tensors = _as_function(layer, example_inputs, dtype, mode)
        with mode:
            graphs = _trace(function, tensors)
        if "backward" not in graphs:
            raise UsageError("the result does not depend on x or on a parameter: there is no backward pass")
        with assumed_device():
            forward = _lower(*graphs["forward"], is_backward=False)
            backward = _lower(*graphs["backward"], is_backward=True)
    except (ImportError, AttributeError) as error:
        raise EnvironmentUnusable(
            f"Inductor of torch {torch.__version__} cannot be run without a device: {error}",
            hint="use a torch between 2.11 and 2.13, and pip install triton",
        ) from error
    return Traffic(
        forward_bytes=forward[0],
        backward_bytes=backward[0],
        forward_kernels=forward[1],
        backward_kernels=backward[1],
        x_bytes=tensors[0].numel() * tensors[0].element_size(),
        workspace_bytes=forward[2] + backward[2],
    )


def _as_function(
    layer: nn.Module | Callable[..., Tensor],
    inputs: Sequence[Tensor],
    dtype: torch.dtype,
    mode: FakeTensorMode,
) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """The layer as a function of tensors alone, and fake CPU tensors for all of them."""

    def fake(t: Tensor) -> Tensor:
        with mode:
            made = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cpu")
        return made.requires_grad_(t.requires_grad)

    x, *others = inputs
    tensors = [fake(torch.empty_like(x, dtype=dtype, device="meta").requires_grad_()), *map(fake, others)]
    if not isinstance(layer, nn.Module):
        return layer, tensors
    module, count = layer, len(tensors)
    names = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
    tensors += [fake(t) for t in (*module.parameters(), *module.buffers())]

    def call(*values: Tensor) -> Tensor:
        state = dict(zip(names, values[count:], strict=True))
        return torch.func.functional_call(module, state, values[:count])

    return call, tensors


_Traced = tuple[torch.fx.GraphModule, list[Tensor]]


def _trace(function: Callable[..., Tensor], tensors: Sequence[Tensor]) -> dict[str, _Traced]:
    """The forward and the backward graph with their fake inputs, partitioned as ``torch.compile`` would."""
    from torch._functorch.aot_autograd import aot_function
    from torch._inductor.compile_fx import partition_fn
    from torch._inductor.decomposition import select_decomp_table

    graphs: dict[str, _Traced] = {}

    def partition(gm: torch.fx.GraphModule, inputs: Sequence[object], **options: Any) -> tuple[Any, Any]:
        parts = partition_fn(gm, inputs, **options)
        # taken here: the backward compiler is called when a backward pass runs, and none does
        holders = [n.meta["val"] for n in parts[1].graph.nodes if n.op == "placeholder"]
        graphs["backward"] = (parts[1], holders)
        return parts

    def compiler(gm: torch.fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        graphs["forward"] = (gm, list(example_inputs))
        return gm.forward

    aot_function(
        function,
        fw_compiler=compiler,
        partition_fn=partition,
        decompositions=select_decomp_table(),
        keep_inference_input_mutations=True,
    )(*tensors)
    return graphs


class _Driver:
    """Triton's active driver, as far as code generation asks it: which target it writes for."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 10 * _CAPABILITY[0] + _CAPABILITY[1], _PROPERTIES.warp_size)

    def get_current_device(self) -> int:
        return 0


@contextlib.contextmanager
def assumed_device() -> Iterator[None]:
    """Let torch and Triton believe, within the block, that one H100-class device is there."""
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor.runtime.hints import DeviceProperties
    from torch.utils._triton import has_triton
    from triton.runtime import driver

    def properties(device: object = None) -> types.SimpleNamespace:
        return _PROPERTIES

    answers: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_properties": properties,
        "get_device_capability": lambda device=None: _CAPABILITY,
    }
    # answers that outlive a call: they must neither come from before nor stay
    caches: tuple[Any, ...] = (DeviceProperties.create, has_triton)
    with contextlib.ExitStack() as stack:
        for cached in caches:
            cached.cache_clear()
            stack.callback(cached.cache_clear)
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
            if name in vars(CudaInterface):
                stack.enter_context(mock.patch.object(CudaInterface, name, staticmethod(answer)))
        worker = CudaInterface.Worker
        stack.enter_context(mock.patch.object(worker, "get_device_properties", staticmethod(properties)))
        stack.enter_context(mock.patch.object(driver, "_active", _Driver()))
        yield


def _lower(gm: torch.fx.GraphModule, inputs: Sequence[Tensor], *, is_backward: bool) -> tuple[int, int, int]:
    """Inductor's bytes, launches and workspace bytes (written and read) of one graph."""
    from torch._guards import TracingContext, tracing
    from torch._inductor.compile_fx import _recursive_post_grad_passes
    from torch._inductor.debug import DebugContext
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V
    from torch.fx.passes.fake_tensor_prop import FakeTensorProp

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        moved = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=_DEVICE) for t in inputs]
    for node in gm.graph.nodes:
        node.args = torch.fx.node.map_aggregate(node.args, _to_device)
        node.kwargs = torch.fx.node.map_aggregate(node.kwargs, _to_device)
    FakeTensorProp(gm, mode=mode).propagate_dont_convert_inputs(*moved)
    with DebugContext(), V.set_fake_mode(mode), tracing(TracingContext(mode)):
        _recursive_post_grad_passes(gm, is_inference=False)
        graph = GraphLowering(gm, example_inputs=moved, is_backward=is_backward, is_inference=False)
        with V.set_graph_handler(graph), V.set_extern_kernel_nodes([]):
            graph.run(*moved)
            source = graph.codegen()[0].value
            moved_bytes = int(graph.count_bytes()[0])
    # the kernels' own sources stand in strings that hold no line of this form
    launches = len(_LAUNCHES.findall(source.partition("def call(")[2].partition("def get_args(")[0]))
    sizes = [int(n) * getattr(torch, name).itemsize for n, name in _WORKSPACE.findall(source)]
    return moved_bytes, launches, 2 * sum(sizes)


def _to_device(value: Any) -> Any:
    return _DEVICE if isinstance(value, torch.device) else value
