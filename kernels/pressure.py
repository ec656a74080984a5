"""How many tensors a kernel holds in registers at once, from the order in which its statements are written.

Every processor has 65,536 registers for all of its threads, so a tile of 8,192 elements leaves eight of them for each
element. A layer that holds more tensors than that at once spills, however many warps it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from evonas.kernels.ir import IR


def tensors_held(ir: IR, roots: Iterable[int], known: Mapping[int, str], rank: int) -> int:
    """Values of ``rank`` axes that are alive at once, at most, when what the roots need is made in the order of ids.

    known: values that are loaded and need nothing else.
    """
    wanted = list(roots)
    needed = ir.reachable(wanted, known)
    last: dict[int, int] = {}
    for i in needed:
        for a in () if i in known else ir[i].args:
            last[a] = i
    last |= dict.fromkeys(wanted, len(ir.values))
    alive: set[int] = set()
    most = 0
    for i in needed:
        if len(ir[i].varies) == rank and i not in known:
            alive.add(i)
        most = max(most, len(alive))
        alive = {j for j in alive if last.get(j, -1) > i}
    return most
