"""Graph -> fused kernels, forward and backward. Importing this imports neither torch nor triton.

The stages of the compiler, in the order in which a layer passes through them:

- ``programs``: a layer's graph as the IR (``ir``) of its two passes; ``expressions`` reads the primitives' Triton
  expressions, gradients are the primitives' own; ``simplify`` and ``intervals`` do the algebra, ``axes`` merges axes.
- ``planner``: which kernels run on tensors of given sizes; ``peeling`` says which statistics are found apart first,
  ``tiling`` lays axes out, ``pressure`` counts registers, ``plan`` is what comes out, ``lowering`` keeps it.
- ``emit``, ``writer``, ``text``, ``sweeps``, ``merge``, ``team``, ``module_text``, ``source_files``: the Triton source;
  ``any_size``: kernels for tensors of every size.
- ``runtime``, ``operator``: launches and the PyTorch operators, ``casting`` turns autocast off; ``verify`` holds them
  against float64.
- ``traffic``, ``latency``, ``roofline``, ``timing``: bytes, a model of the time, floors, measured times.
- ``spec``, ``kernel_specs``, ``offline``, ``pool``, ``compile_worker``, ``sass``: compiling ahead, without the device.
- ``linear_attention*``: causal linear attention with decay, written by hand: eager forms, kernels, operators.
- ``c_*``: the same programs as C, for the CPU. ``vm*``: one kernel that runs many graphs as data.
"""
