"""Reads machine code: how many instructions of which kind a kernel has, per element of the tensor it handles.

SASS is NVIDIA's machine code as ``cuobjdump -sass`` prints it, PTX the text that it was assembled from, amdgcn AMD's
assembly as Triton keeps it. A warp executes an instruction once, for each of its threads. Needs no triton.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

_SASS_FUNCTION = re.compile(r"^\s*Function : (\S+)")
_SASS_LINE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;]*?)\s*;")
_SASS_ADDRESS = re.compile(r"(?:^|[\s,])(0x[0-9a-f]+)$")
_SASS_BITS = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128, "256": 256}

_LABEL = re.compile(r"^([.$]\w+):")
_TEXT_LINE = re.compile(r"^\s+(@!?%p\d+\s+)?([a-z][\w.:]*)\s*([^;]*)")
_PTX_ACCESS = re.compile(r"^(?:ld|st)\.global(?:\.\w+)*?(?:\.v(\d))?\.[bsuf](\d+)$")

_AMD_ACCESS = re.compile(
    r"^(?:global|buffer|flat)_(load|store)_(?:lds_)?"
    r"(dwordx4|dwordx3|dwordx2|dword|[us]?short|[us]?byte|b128|b96|b64|b32|b16|b8|u16|i16|u8|i8|d16\w*)"
)
_AMD_BITS = {"dwordx4": 128, "dwordx3": 96, "dwordx2": 64, "dword": 32}
_AMD_MUFU = re.compile(r"^v_(exp|log|rcp|rsq|sqrt|sin|cos)_")


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        address: in bytes, or its number in a text that has no addresses.
        opcode: with its modifiers.
        target: address that it may jump to or calls.
        leaves: what follows it in the text is not executed after it: a jump without a condition, an exit, a return.
    """

    address: int
    opcode: str
    target: int | None = None
    leaves: bool = False


@dataclass(frozen=True)
class Counts:
    """Instructions of one stretch of code.

    mufu: special functions (exponential, logarithm, reciprocal, square root, tanh). fsel: selections of one of two
    values. mma: matrix products, hgmma among them those of Hopper's warp groups. barriers: of the program. loads,
    stores: of global memory, number by width in bits per thread; asynchronous copies to shared memory count as loads,
    bulk copies (TMA) do not.
    """

    instructions: int = 0
    mufu: int = 0
    fsel: int = 0
    mma: int = 0
    hgmma: int = 0
    barriers: int = 0
    loads: dict[int, int] = field(default_factory=dict)
    stores: dict[int, int] = field(default_factory=dict)

    @property
    def load_bytes(self) -> int:
        """Bytes that one thread reads from global memory."""
        return sum(bits * number for bits, number in self.loads.items()) // 8

    @property
    def store_bytes(self) -> int:
        """Bytes that one thread writes to global memory."""
        return sum(bits * number for bits, number in self.stores.items()) // 8


@dataclass(frozen=True)
class KernelCounts:
    """What the code of one kernel holds.

    Attributes:
        total: everything but no-ops, padding and subroutines.
        straight: of that, what stands outside of loops.
        loops: bodies of the outermost loops, in the order of their addresses; a loop inside of one counts once.
        unroll: passes of the source's loops in one pass of the loops here. 1 if the assembler did not unroll.
        subroutines: instructions that only a call reaches, for instance the rare cases of an IEEE division.
    """

    total: Counts
    straight: Counts
    loops: tuple[Counts, ...]
    unroll: float
    subroutines: int

    def per_element(self, elements: int, num_warps: int, warp_size: int = 32) -> dict[str, float]:
        """Executed instructions and special functions per element of the tensor.

        A kernel with loops does its work there, with ``elements`` in one pass of the loops' bodies one after the
        other: ``instructions`` and ``mufu`` are then ``loop_*``; otherwise they are ``straight_*``, which is
        what stands outside of loops, executed once per program. A loop that was unrolled counts for as many passes.

        Args:
            elements: that one program handles in one pass; at least 1.
            num_warps: warps of a program.
            warp_size: threads of a warp, 32 on NVIDIA and 64 on AMD.
        """
        scale = warp_size * num_warps / elements
        result = {
            "straight_instructions": self.straight.instructions * scale,
            "straight_mufu": self.straight.mufu * scale,
            "loop_instructions": sum(loop.instructions for loop in self.loops) * scale / self.unroll,
            "loop_mufu": sum(loop.mufu for loop in self.loops) * scale / self.unroll,
        }
        where = "loop" if self.loops else "straight"
        return {what: result[f"{where}_{what}"] for what in ("instructions", "mufu")} | result

    def as_dict(self) -> dict[str, Any]:
        """For JSON; ``from_dict`` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> KernelCounts:
        def counts(given: dict[str, Any]) -> Counts:
            widths = {name: {int(k): v for k, v in given[name].items()} for name in ("loads", "stores")}
            return Counts(**{**given, **widths})

        return cls(
            counts(record["total"]),
            counts(record["straight"]),
            tuple(counts(loop) for loop in record["loops"]),
            record["unroll"],
            record["subroutines"],
        )


def parse_sass(text: str) -> dict[str, list[Instruction]]:
    """Instructions by function from the output of ``cuobjdump -sass``, in the order of addresses."""
    functions: dict[str, list[Instruction]] = {}
    code: list[Instruction] = []
    for line in text.splitlines():
        if named := _SASS_FUNCTION.match(line):
            code = functions.setdefault(named[1], [])
        elif found := _SASS_LINE.match(line):
            address, predicate, opcode, operands = found.groups()
            jump = _SASS_ADDRESS.search(operands) if opcode.startswith(("BRA", "CALL", "JMP")) else None
            # `BRA P1, 0x10` and `BRA.DIV UR4, 0x10` have a condition of their own.
            bare = predicate is None and (jump is None or jump[0] == operands)
            leaves = bare and opcode.startswith(("BRA", "JMP", "EXIT", "RET"))
            code.append(Instruction(int(address, 16), opcode, int(jump[1], 16) if jump else None, leaves))
    return functions


def parse_ptx(text: str) -> list[Instruction]:
    """Instructions of the kernel in a PTX text."""
    return _parse_text(text.partition("{\n")[2].partition("\n}\n")[0], "//", ("bra", "ret", "exit"))


def parse_amdgcn(text: str) -> list[Instruction]:
    """Instructions of the kernel in an amdgcn text."""
    code = text.partition(".section\t.rodata")[0]
    return _parse_text(code, ";", ("s_branch", "s_endpgm", "s_setpc_b64"))


def _parse_text(text: str, comment: str, leaving: tuple[str, ...]) -> list[Instruction]:
    labels: dict[str, int] = {}
    found: list[tuple[str | None, str, str]] = []
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(found)
        elif instruction := _TEXT_LINE.match(line.partition(comment)[0]):
            found.append((instruction[1], instruction[2], instruction[3].strip()))
    return [
        Instruction(
            i, opcode, labels.get(operands), predicate is None and opcode.partition(".")[0] in leaving
        )
        for i, (predicate, opcode, operands) in enumerate(found)
    ]


def count(code: Sequence[Instruction], source: Sequence[Instruction] = ()) -> KernelCounts:
    """Counts of one kernel.

    Args:
        code: SASS or amdgcn.
        source: the PTX that SASS was assembled from, to tell how far its loops were unrolled.
    """
    cold = _subroutines(code)
    live = [at for at in code if at.address not in cold and not _padding(at)]
    bodies = _loops(live)
    inside = {at.address for body in bodies for at in body}
    loops = tuple(_counts(body) for body in bodies)
    before = sum(_counts(body).load_bytes + _counts(body).store_bytes for body in _loops(source))
    after = sum(loop.load_bytes + loop.store_bytes for loop in loops)
    return KernelCounts(
        total=_counts(live),
        straight=_counts([at for at in live if at.address not in inside]),
        loops=loops,
        unroll=after / before if before and after else 1.0,
        subroutines=len(cold),
    )


def _padding(at: Instruction) -> bool:
    """No-ops, and the jump to itself that ends a function."""
    return at.opcode in ("NOP", "s_nop", "s_code_end") or at.target == at.address


def _subroutines(code: Sequence[Instruction]) -> set[int]:
    """Addresses from the target of a call to the return that ends it."""
    cold: set[int] = set()
    for start in {at.target for at in code if at.opcode.startswith("CALL") and at.target is not None}:
        for at in code:
            if at.address >= start:
                cold |= set() if _padding(at) else {at.address}
                if at.opcode.startswith("RET") and at.leaves:
                    break
    return cold


def _loops(code: Sequence[Instruction]) -> list[list[Instruction]]:
    """Bodies of the outermost loops: what can reach itself. Code out of line jumps back without being a loop."""
    import networkx

    # Instructions that were left out, as padding, may be targets: a jump there goes to the next one.
    flow: Any = networkx.DiGraph()
    flow.add_edges_from((at.address, after.address) for at, after in pairwise(code) if not at.leaves)
    for at in code:
        if at.target is not None and not at.opcode.startswith("CALL"):
            landing = next((other.address for other in code if other.address >= at.target), None)
            if landing is not None:
                flow.add_edge(at.address, landing)
    parts: Iterable[set[int]] = networkx.strongly_connected_components(flow)
    found = [part for part in parts if len(part) > 1]
    return [[at for at in code if at.address in part] for part in sorted(found, key=min)]


def _counts(code: Sequence[Instruction]) -> Counts:
    base = Counter(at.opcode.partition(".")[0] for at in code)
    accesses: dict[str, Counter[int]] = {"load": Counter(), "store": Counter()}
    for at in code:
        name, *modifiers = at.opcode.split(".")
        if name in ("LDG", "LDGSTS", "STG"):
            bits = next((_SASS_BITS[word] for word in modifiers if word in _SASS_BITS), 32)
            accesses["store" if name == "STG" else "load"][bits] += 1
        elif ptx := _PTX_ACCESS.match(at.opcode):
            accesses["store" if name == "st" else "load"][int(ptx[1] or 1) * int(ptx[2])] += 1
        elif amd := _AMD_ACCESS.match(name):
            accesses[amd[1]][_amd_bits(amd[2])] += 1

    def total(*prefixes: str) -> int:
        return sum(number for name, number in base.items() if name.startswith(prefixes))

    return Counts(
        instructions=len(code),
        mufu=base["MUFU"] + sum(number for name, number in base.items() if _AMD_MUFU.match(name)),
        fsel=base["FSEL"] + total("v_cndmask"),
        mma=sum(number for name, number in base.items() if name.endswith("MMA"))
        + total("v_mfma", "v_smfma", "v_wmma"),
        hgmma=base["HGMMA"],
        barriers=base["BAR"] + base["s_barrier"],
        loads=dict(sorted(accesses["load"].items())),
        stores=dict(sorted(accesses["store"].items())),
    )


def _amd_bits(width: str) -> int:
    if width in _AMD_BITS:
        return _AMD_BITS[width]
    digits = None if width.startswith("d16") else re.search(r"\d+$", width)
    return int(digits[0]) if digits else 8 if "byte" in width else 16
