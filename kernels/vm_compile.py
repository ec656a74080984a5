"""What the kernel of ``vm_kernel`` becomes on a GPU that need not be there: registers, spills, compile time.

Triton compiles for a named architecture without a driver; the tool that reads the binary comes with its wheel.
Importing this imports neither torch nor triton.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from evonas.kernels.vm import Tile, launch_options

from evonas.errors import EnvironmentUnusable


@dataclass(frozen=True, slots=True)
class CompileReport:
    """registers: of one thread. spill_bytes: of the stack of one thread, 0 if all values stay in registers.
    shared_bytes: of shared memory per candidate. instructions: of the whole kernel. seconds: to compile it, about
    0 if Triton's cache has it."""

    registers: int
    spill_bytes: int
    shared_bytes: int
    instructions: int
    seconds: float


def compile_report(tile: Tile, itemsize: int, registers: int, capability: int = 90) -> CompileReport:
    """Compile the kernel for one tile and register file, as a launch would.

    Args:
        tile: from ``make_tile``.
        itemsize: bytes of an element, 4 (float32) or 8 (float64).
        registers: one of ``REGISTER_FILES``.
        capability: compute capability times ten, 90 for H100 and H200.

    Raises:
        EnvironmentUnusable: no triton, triton in its interpreter, or a wheel without the tool that reads binaries.
    """
    try:
        import triton
        from evonas.kernels.vm_kernel import vm_forward
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
    except ModuleNotFoundError as error:
        raise EnvironmentUnusable(f"{error}", hint="pip install triton") from None
    if not isinstance(vm_forward, triton.JITFunction):
        raise EnvironmentUnusable("triton interprets kernels here", hint="unset TRITON_INTERPRET")
    number = {4: "fp32", 8: "fp64"}[itemsize]
    constants = dict(zip(("B", "G", "K", "P", "REGISTERS"), (*tile.padded, registers), strict=True))
    signature = dict.fromkeys(vm_forward.arg_names, "i32")
    signature |= dict.fromkeys(("y", "x", "v0", "v1", "g", "constants"), f"*{number}")
    signature |= {"code": "*i32", "lengths": "*i32"} | dict.fromkeys(constants, "constexpr")
    aligned = {(i,): [["tt.divisibility", 16]] for i, t in enumerate(signature.values()) if t.startswith("*")}
    started = time.perf_counter()
    compiled = triton.compile(
        ASTSource(vm_forward, signature, constants, aligned),
        target=GPUTarget("cuda", capability, 32),
        options=launch_options(tile),
    )
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        usage, code = (_read_binary(option, binary) for option in ("--dump-resource-usage", "-sass"))
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", usage)
    if found is None:
        raise EnvironmentUnusable(f"cuobjdump does not say what the kernel uses: {usage[:200]!r}")
    return CompileReport(
        int(found[1]),
        int(found[2]),
        int(found[3]),
        len(re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+\S", code, re.MULTILINE)),
        seconds,
    )


def _read_binary(option: str, binary: Path) -> str:
    import triton

    tool = triton.knobs.nvidia.cuobjdump.path
    try:
        done = subprocess.run([tool, option, str(binary)], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise EnvironmentUnusable(
            f"cuobjdump did not run: {error}", hint="install triton from its wheel"
        ) from None
    return done.stdout
