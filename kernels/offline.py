"""Compiles a kernel without its device: registers, spills, shared memory, machine instructions.

The compiler runs in a child process, whatever this one has done with triton: a process that interprets kernels
(``TRITON_INTERPRET=1``) cannot compile them, and one that has imported triton cannot interpret them any more.
"""

from __future__ import annotations

import importlib.util
import linecache
import os
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evonas.kernels.sass import KernelCounts, count, parse_amdgcn, parse_ptx, parse_sass
from evonas.kernels.spec import KernelSpec, Target, parse_target

from evonas.errors import EnvironmentUnusable, EvonasError

#: Of an error's text: the end says what is wrong.
_TEXT = 2000


@dataclass(frozen=True)
class CompileReport:
    """A compiled kernel.

    Attributes:
        key: ``KernelSpec.key`` with the target.
        registers: 32-bit registers per thread (AMD: vector registers, accumulators included).
        stack_bytes, local_bytes: per thread, in slow memory. A kernel from Triton has them when it spills.
        shared_bytes: of one program.
        num_warps, elements: of the spec; warp specialization may have changed the warps.
        cpu_seconds, wall_seconds: to compile, the assembler's included, the counting of instructions not.
        cached: was found in the cache, so that the seconds are those of looking it up.
        hash: Triton's name of the cache entry.
        binary, metadata: files in the cache: a cubin or hsaco, and the JSON with the kernel's symbol and what a
            launch must know.
        counts: instructions, if they were asked for.
    """

    key: str
    function: str
    target: str
    registers: int
    stack_bytes: int
    local_bytes: int
    shared_bytes: int
    num_warps: int
    elements: int
    cpu_seconds: float
    wall_seconds: float
    cached: bool
    hash: str
    binary: str
    metadata: str
    counts: KernelCounts | None = None

    ok = True

    @property
    def spill_bytes(self) -> int:
        """Bytes per thread that did not fit into registers; 0 is what a fast kernel has."""
        return self.stack_bytes + self.local_bytes

    def per_element(self) -> dict[str, float]:
        """See ``KernelCounts.per_element``; empty without counts or with an unknown number of elements."""
        if self.counts is None or not self.elements:
            return {}
        return self.counts.per_element(self.elements, self.num_warps, parse_target(self.target).warp_size)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; ``from_dict`` reads it back."""
        return {**asdict(self), "per_element": self.per_element()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> CompileReport:
        given = {name: value for name, value in record.items() if name != "per_element"}
        if given.get("counts") is not None:
            given["counts"] = KernelCounts.from_dict(given["counts"])
        return cls(**given)


@dataclass(frozen=True)
class CompileFailure:
    """A kernel that did not compile.

    ``kind``: ``source`` the file cannot be loaded or its function has other arguments, ``compile`` Triton or the
    assembler refuses it, ``died`` the compiler crashed, ``deadline`` it took too long, ``closed`` the pool was
    closed, ``environment`` this machine cannot compile.
    """

    key: str
    function: str
    target: str
    kind: str
    message: str

    ok = False

    @property
    def transient(self) -> bool:
        """Whether it may go well the next time."""
        return self.kind not in ("source", "compile")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


CompileResult = CompileReport | CompileFailure


class CompileFailed(EvonasError):
    """A kernel that did not compile; ``failure`` says how."""

    def __init__(self, failure: CompileFailure) -> None:
        super().__init__(
            f"{failure.function} for {failure.target} failed ({failure.kind}): {failure.message}",
            hint="the backend 'eager' needs no kernel",
        )
        self.failure = failure


def compile_spec(
    spec: KernelSpec,
    target: str,
    *,
    cache_dir: str | Path | None = None,
    sass: bool = True,
    deadline: float = 120.0,
) -> CompileReport:
    """Compile a kernel for a device that need not be here.

    Args:
        target: ``sm_80``, ``sm_90``, ``sm_100``, ``gfx90a`` or ``gfx942``.
        cache_dir: Triton's cache; its own default (``TRITON_CACHE_DIR``) if None.
        sass: count instructions, which takes half a second for an NVIDIA target.
        deadline: seconds.

    Raises:
        UsageError: unknown target.
        CompileFailed: it does not compile, or not in time.
        EnvironmentUnusable: no triton, or one without its tools.
    """
    from evonas.kernels.compile_worker import shared_process

    parse_target(target)
    with shared_process() as process:
        result = process.compile(spec, target, cache_dir=cache_dir, sass=sass, deadline=deadline)
    if isinstance(result, CompileReport):
        return result
    if result.kind == "environment":
        raise EnvironmentUnusable(result.message, hint="pip install triton, or use backend='eager'")
    raise CompileFailed(result)


def compile_here(
    spec: KernelSpec, target: str, *, cache_dir: str | Path | None = None, sass: bool = True
) -> CompileResult:
    """What ``compile_spec`` does in its child. For a process of its own that never interprets kernels.

    Raises:
        UsageError: unknown target.
        EnvironmentUnusable: triton interprets here, or is missing, or has no tools.
    """
    at = parse_target(target)
    key = spec.key(target)
    _check_triton()
    if cache_dir is not None:
        os.environ["TRITON_CACHE_DIR"] = str(Path(cache_dir).absolute())
    try:
        function = load_function(spec)
    except (Exception, SystemExit) as error:
        return CompileFailure(key, spec.function, target, "source", _message(error))
    start = (_cpu_seconds(), time.perf_counter())
    try:
        kernel, files, cached = _compile(function, spec, at)
    except Exception as error:
        return CompileFailure(key, spec.function, target, "compile", _message(error))
    cpu, wall = _cpu_seconds() - start[0], time.perf_counter() - start[1]
    binary = files[".cubin" if at.backend == "cuda" else ".hsaco"]
    if at.backend == "cuda":
        registers, stack, local = _cuda_resources(binary)
    else:
        registers, stack, local = _hip_resources(kernel.asm["amdgcn"])
    return CompileReport(
        key=key,
        function=spec.function,
        target=target,
        registers=registers,
        stack_bytes=stack,
        local_bytes=local,
        shared_bytes=kernel.metadata.shared,
        num_warps=kernel.metadata.num_warps,
        elements=spec.elements,
        cpu_seconds=cpu,
        wall_seconds=wall,
        cached=cached,
        hash=kernel.hash,
        binary=binary,
        metadata=files[".json"],
        counts=_kernel_counts(kernel, at, binary) if sass else None,
    )


def load_function(spec: KernelSpec) -> Any:
    """The ``@triton.jit`` function of a spec.

    Raises:
        ValueError: no such function, or one with other arguments.
        Exception: whatever importing the file raises.
    """
    path = Path(spec.path).absolute()
    linecache.checkcache(str(path))  # the file may have been written again since triton last read it
    # Always the same name: triton keeps the last function of each name for ever.
    loader = importlib.util.spec_from_file_location("evonas_kernel", path)
    if loader is None or loader.loader is None:
        raise ValueError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(module)
    function = getattr(module, spec.function, None)
    if function is None or not hasattr(function, "arg_names"):
        raise ValueError(f"{path} has no @triton.jit function {spec.function!r}")
    names = [name for name, _ in spec.signature]
    if list(function.arg_names) != names:
        raise ValueError(f"{spec.function} takes {list(function.arg_names)}, the signature has {names}")
    return function


def launch_source(function: Any, spec: KernelSpec, backend: Any) -> tuple[Any, dict[str, Any]]:
    """What Triton compiles for a launch with the spec's arguments, and with which options: its cache's key.

    A launch describes each argument by a type and by letters: D for a multiple of 16, S for a tensor below 2 GB (asked
    for by AMD's backend alone), none at all for floats, bools and what is marked ``do_not_specialize``. What becomes of
    the letters differs between versions of Triton, so its own code does that.
    """
    from triton import knobs
    from triton.compiler import ASTSource

    constants = dict(spec.constants)
    described: list[tuple[str, Any]] = []
    for param, (name, kind) in zip(function.params, spec.signature, strict=True):
        letters = None
        if kind == "constexpr":
            letters = constants[name]
        elif not param.do_not_specialize and not kind.startswith(("fp", "bf", "u1")):
            aligned = name in spec.aligned and not param.do_not_specialize_on_alignment
            small = kind.startswith("*") and backend.target.backend == "hip" and knobs.amd.use_buffer_ops
            letters = ("D" if aligned else "") + ("S" if small else "")
        described.append((kind, letters))
    asked = {**spec.launch_options(), "debug": function.debug or knobs.runtime.debug}
    arguments = {name: constants.get(name) for name, _ in spec.signature}
    if hasattr(function, "_pack_args"):
        options, signature, constexprs, marks = function._pack_args(
            backend, asked, arguments, described, asked
        )
        return ASTSource(function, signature, constexprs, marks), options.__dict__
    # Triton 3.4 does these in the middle of its launch.
    paths = {(i,): constants[name] for i, (name, kind) in enumerate(spec.signature) if kind == "constexpr"}
    marks = {(i,): backend.parse_attr(s) for i, (_, s) in enumerate(described) if isinstance(s, str)}
    return ASTSource(function, dict(spec.signature), paths, marks), backend.parse_options(asked).__dict__


def _compile(function: Any, spec: KernelSpec, target: Target) -> tuple[Any, dict[str, str], bool]:
    """Triton's ``CompiledKernel``, its files by suffix, and whether the cache had it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend

    device = GPUTarget(target.backend, target.arch, target.warp_size)
    heard: list[tuple[dict[str, str], bool]] = []

    def listen(*, metadata_group: Mapping[str, str], cache_hit: bool, **_: Any) -> None:
        heard.append(({Path(path).suffix: str(path) for path in metadata_group.values()}, cache_hit))

    with triton.knobs.compilation.scope():
        triton.knobs.compilation.listener = listen
        source, options = launch_source(function, spec, make_backend(device))
        kernel = triton.compile(source, target=device, options=options)
    return kernel, *heard[-1]


def _check_triton() -> None:
    try:
        import triton
        from triton.runtime.jit import JITFunction
    except ImportError as error:
        raise EnvironmentUnusable(
            f"{error}: kernels need it", hint="pip install triton, or use backend='eager'"
        ) from None
    if triton.knobs.runtime.interpret or not isinstance(triton.language.sum, JITFunction):
        raise EnvironmentUnusable(
            "triton interprets kernels in this process, so that it cannot compile them",
            hint="unset TRITON_INTERPRET and start again, or use compile_spec",
        )


def _cuda_resources(cubin: str) -> tuple[int, int, int]:
    text = _cuobjdump("--dump-resource-usage", cubin)
    # Line 1 is what functions share, line 2 the kernel's.
    found = re.findall(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", text)
    if not found:
        raise EnvironmentUnusable(f"cuobjdump did not report registers: {text!r}", hint="reinstall triton")
    return max(int(r) for r, _, _ in found), max(int(s) for _, s, _ in found), max(int(v) for *_, v in found)


def _hip_resources(amdgcn: str) -> tuple[int, int, int]:
    found = {name: int(value) for name, value in re.findall(r"^\s+(?:- )?\.(\w+):\s+(\d+)$", amdgcn, re.M)}
    # Scratch memory without a size of its own: registers of 4 bytes.
    return found["vgpr_count"], max(found["private_segment_fixed_size"], 4 * found["vgpr_spill_count"]), 0


def _kernel_counts(kernel: Any, target: Target, binary: str) -> KernelCounts:
    if target.backend == "hip":
        return count(parse_amdgcn(kernel.asm["amdgcn"]))
    return count(parse_sass(_cuobjdump("-sass", binary))[kernel.metadata.name], parse_ptx(kernel.asm["ptx"]))


def _cuobjdump(flag: str, cubin: str) -> str:
    import triton

    try:
        command = [triton.knobs.nvidia.cuobjdump.path, flag, cubin]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        raise EnvironmentUnusable(
            f"triton's cuobjdump does not run: {error}", hint="pip install --force-reinstall triton"
        ) from None


def _cpu_seconds() -> float:
    """Of this process and of the assemblers that it has started and waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _message(error: BaseException) -> str:
    """The error and what caused it: Triton says where in the first and why in the second."""
    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        parts.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__
    text = "\n".join(parts)
    return text if len(text) <= _TEXT else f"...{text[-_TEXT:]}"
