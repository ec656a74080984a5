"""What a compiler of Triton kernels must know: a kernel in a file, the types of its arguments, a target.

Triton looks compiled kernels up by source, signature, alignment, constants and options. ``KernelSpec`` holds
exactly these, so that a kernel that was compiled ahead is the one that a launch finds. Needs no triton.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evonas.errors import UsageError, unknown_name

Constant = int | bool | float | str | None

_FLOATS = ("fp16", "bf16", "fp32", "fp64")
_INTS = ("i1", "i8", "i16", "i32", "i64", "u1", "u8", "u16", "u32", "u64")
_ELEMENTS = (*_FLOATS, *_INTS, "fp8e4nv", "fp8e5", "fp8e4b15", "fp8e4b8", "fp8e5b16")
#: Names of tensor types in torch and numpy, and Triton's.
_TENSOR_TYPES = {
    "float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp64", "bool": "i1",
    "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64",
    "uint8": "u8", "uint16": "u16", "uint32": "u32", "uint64": "u64",
    "float8_e4m3fn": "fp8e4nv", "float8_e5m2": "fp8e5", "float8_e4m3fnuz": "fp8e4b8",
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A device to compile for. ``warp_size``: threads that execute one instruction together."""

    name: str
    backend: str
    arch: int | str
    warp_size: int


TARGETS = {
    target.name: target
    for target in (
        Target("sm_80", "cuda", 80, 32),  # A100
        Target("sm_90", "cuda", 90, 32),  # H100, H200
        Target("sm_100", "cuda", 100, 32),  # B200
        Target("gfx90a", "hip", "gfx90a", 64),  # MI250
        Target("gfx942", "hip", "gfx942", 64),  # MI300
    )
}


def parse_target(name: str) -> Target:
    """A target by name.

    Raises:
        UsageError: unknown; lists the known ones.
    """
    if name not in TARGETS:
        raise unknown_name("target", name, TARGETS)
    return TARGETS[name]


@dataclass(frozen=True)
class KernelSpec:
    """A kernel in a file and how it is called.

    Args:
        path: Python file that holds it.
        function: name of the ``@triton.jit`` function.
        signature: name and type of every argument in order: ``*bf16`` a pointer, ``i32``, ``fp32`` a number,
            ``constexpr`` a compile-time constant. Triton turns an integer argument that is 1 into a constant:
            for such a call it is ``constexpr`` here with the constant 1.
        constants: value of every ``constexpr`` argument.
        aligned: pointers (in bytes) and integers that are multiples of 16. Triton specializes on it: a spec that
            says less than the call compiles a kernel that the call does not use, and that has no wide loads.
        num_warps: warps per program, a power of two.
        num_stages: of software pipelines. A launch must pass both; ``launch_options`` has them.
        elements: of the big tensor that one program handles in one pass; 0 if unknown.
        options: further options of Triton, for instance ``("launch_cooperative_grid", True)`` or ``("maxnreg", 128)``.

    Raises:
        UsageError: constants and signature do not fit, or an unknown type.
    """

    path: str
    function: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Constant], ...] = ()
    aligned: tuple[str, ...] = ()
    num_warps: int = 4
    num_stages: int = 3
    elements: int = 0
    options: tuple[tuple[str, Constant], ...] = ()

    def __post_init__(self) -> None:
        names = [name for name, _ in self.signature]
        wanted = {name for name, kind in self.signature if kind == "constexpr"}
        given = {name for name, _ in self.constants}
        if len(set(names)) != len(names):
            raise UsageError(
                f"{self.function}: an argument stands twice in the signature: {', '.join(names)}"
            )
        for name, kind in self.signature:
            if kind != "constexpr" and kind.removeprefix("*").removeprefix("k") not in _ELEMENTS:
                raise UsageError(
                    f"{self.function}: argument {name} has the unknown type {kind!r}",
                    hint=f"constexpr, or one of {', '.join(_ELEMENTS)}, with * before it for a pointer",
                )
        if wanted != given:
            raise UsageError(
                f"{self.function}: constexpr arguments are {sorted(wanted)}, constants are given for {sorted(given)}",
                hint="give one value in `constants` for each `constexpr` of the signature",
            )
        if not set(self.aligned) <= set(names) - wanted:
            strange = sorted(set(self.aligned) - (set(names) - wanted))
            raise UsageError(f"{self.function}: aligned names {strange}, which are no runtime arguments")
        if self.num_warps < 1 or self.num_warps & (self.num_warps - 1):
            raise UsageError(
                f"{self.function}: num_warps is {self.num_warps}, which is not a power of two", hint="1 to 32"
            )

    def launch_options(self) -> dict[str, Constant]:
        """Keyword arguments that a launch ``kernel[grid](...)`` passes to find what was compiled from this.

        Fusion of multiplications and additions is on, always: its default changes between versions of Triton.
        """
        return {
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
            "enable_fp_fusion": True,
            **dict(self.options),
        }

    def key(self, target: str = "") -> str:
        """16 hexadecimal digits over the text of the file, everything here but its path, and the target."""
        try:
            text = Path(self.path).read_bytes()
        except OSError:
            text = f"missing {self.path}".encode()
        what = {**self.as_dict(), "path": hashlib.blake2b(text).hexdigest(), "target": target}
        del what["elements"]  # says how to count, not what to compile
        return hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=8).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """For JSON; ``from_dict`` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> KernelSpec:
        pairs = {
            name: tuple((pair[0], pair[1]) for pair in record[name])
            for name in ("signature", "constants", "options")
        }
        return cls(**{**record, **pairs, "aligned": tuple(record["aligned"])})


def spec_from_call(
    path: str | Path,
    function: str,
    arguments: Mapping[str, Any],
    constants: Iterable[str] = (),
    *,
    num_warps: int = 4,
    num_stages: int = 3,
    elements: int = 0,
    options: Mapping[str, Constant] | None = None,
) -> KernelSpec:
    """The spec of a call ``kernel[grid](**arguments)``, specialized as Triton's launch does.

    Args:
        path, function, num_warps, num_stages, elements, options: see ``KernelSpec``.
        arguments: every argument of the kernel in order. A tensor (anything with ``data_ptr`` and ``dtype``), an
            integer, a float, a bool, or None.
        constants: names of the arguments that are ``tl.constexpr`` in the kernel.

    Raises:
        UsageError: a value that a kernel cannot take, a constant that is not among the arguments.
    """
    constant = set(constants)
    if not constant <= set(arguments):
        raise UsageError(
            f"{function}: constants {sorted(constant - set(arguments))} are not among its arguments"
        )
    signature: list[tuple[str, str]] = []
    values: list[tuple[str, Constant]] = []
    aligned: list[str] = []
    for name, value in arguments.items():
        if name in constant or value is None or (isinstance(value, int) and value is not True and value == 1):
            signature.append((name, "constexpr"))
            values.append((name, value))
            continue
        kind, even = _argument(function, name, value)
        signature.append((name, kind))
        if even:
            aligned.append(name)
    return KernelSpec(
        str(path),
        function,
        tuple(signature),
        tuple(values),
        tuple(aligned),
        num_warps,
        num_stages,
        elements,
        tuple((options or {}).items()),
    )


def _argument(function: str, name: str, value: Any) -> tuple[str, bool]:
    """Triton's type of a runtime argument, and whether it counts as a multiple of 16."""
    if isinstance(value, bool):
        return "u1", False
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise UsageError(f"{function}: argument {name} is {value}, which needs more than 64 bits")
        kind = "i32" if -(2**31) <= value < 2**31 else "i64" if value < 2**63 else "u64"
        return kind, value % 16 == 0
    if isinstance(value, float):
        return "fp32", False
    dtype = str(getattr(value, "dtype", "")).rpartition(".")[2]
    if hasattr(value, "data_ptr") and dtype in _TENSOR_TYPES:
        return f"*{_TENSOR_TYPES[dtype]}", value.data_ptr() % 16 == 0
    raise UsageError(
        f"{function}: argument {name} is a {type(value).__name__}, which a kernel cannot take",
        hint="a tensor, an integer, a float, a bool or None; or name it in `constants`",
    )
