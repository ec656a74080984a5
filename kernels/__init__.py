"""Graph -> fused kernels, forward and backward. Importing this imports neither torch nor triton.

The stages of the compiler, in the order in which a layer passes through them:

- ``programs``: a layer's graph as the IR (``ir``) of its two passes; ``expressions`` reads the primitives' Triton
expressions,
  gradients are the primitives' own; ``simplify`` and ``intervals`` do the algebra, ``axes`` merges axes.
- ``plan``: which kernels run on tensors of given sizes; ``tiling`` lays axes out, ``lowering`` keeps what was planned.
- ``emit``, ``writer``, ``text``, ``merge``, ``team``, ``module_text``: the Triton source.
- ``runtime``, ``operator``: launches and the PyTorch operators; ``verify`` holds them against float64.
- ``traffic``, ``latency``, ``roofline``: bytes, a model of the time, floors.
- ``spec``, ``kernel_specs``, ``offline``, ``sass``, ``pool``: compilation ahead, without the device.
- ``linear_attention*``: causal linear attention with decay, written by hand: eager forms, kernels, operators.
- ``c_*``: the same programs as C, for the CPU. ``vm*``: one kernel that runs many graphs as data.
"""
