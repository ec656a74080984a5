"""How a C function goes over one pass: which axes are outer loops, which are swept, and what each loop nest finds.

The *run* is the innermost axis in memory (both halves of the channels, taken as one, when they lie there). The
*domain* is what the reductions cover. Axes outside of both are loops around everything, so that all sweeps of
one instance go over a piece of memory that stays in cache. A value is *wide* if it varies over all swept axes:
those are recomputed in every sweep. Narrower ones are computed once per instance, in a loop nest over their own
axes, and kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evonas.kernels.axes import CHANNELS
from evonas.kernels.ir import IR, REDUCTIONS, Axes
from evonas.kernels.programs import Program


@dataclass(frozen=True)
class Nest:
    """One loop nest over ``axes`` (in memory order, the run whole or not at all).

    values: computed and kept, ascending. reductions: found by it, at hand once it is closed. last: the sweep that
    writes the tensors and adds up vector gradients.
    """

    axes: tuple[str, ...]
    values: tuple[int, ...] = ()
    reductions: tuple[int, ...] = ()
    last: bool = False


class Schedule:
    """Loop nests of one pass, in order.

    known: values that are given in buffers, by name.
    """

    def __init__(self, program: Program, known: Mapping[int, str]) -> None:
        self.program = program
        self.ir: IR = program.ir
        self.known = dict(known)
        self.axes = program.axes.names
        self.channels = tuple(a for a in self.axes if a in program.axes.of(CHANNELS))
        both = len(self.channels) == 2 and self.axes[-2:] == self.channels
        self.run = self.axes[-2:] if both else self.axes[-1:]
        self.needed = self.ir.reachable(program.roots, self.known)
        domain: Axes = frozenset()
        for i in self.ir.reductions(program.roots, self.known):
            domain |= self.ir[i].over
        self.outer = tuple(a for a in self.axes if a not in domain and a not in self.run)
        self.swept = tuple(a for a in self.axes if a not in self.outer)
        self.nests = self._nests()

    def over(self, i: int) -> tuple[str, ...]:
        """Swept axes that a value is kept over: those it varies over, the whole run if any part of it."""
        varies = self.ir[i].varies
        whole = varies | set(self.run) if varies & set(self.run) else varies
        return tuple(a for a in self.swept if a in whole)

    def given(self, i: int) -> bool:
        """Whether nothing has to be computed for it."""
        return i in self.known or self.ir[i].op in ("leaf", "const")

    def wide(self, i: int) -> bool:
        """Whether it is computed anew, block by block, wherever it is used."""
        return not self.given(i) and self.ir[i].op not in REDUCTIONS and self.over(i) == self.swept

    def space(self, i: int) -> tuple[str, ...]:
        """Axes of the nest that computes it."""
        return self.over(self.ir[i].args[0]) if self.ir[i].op in REDUCTIONS else self.over(i)

    def _nests(self) -> list[Nest]:
        depth: dict[int, int] = {}
        for i in self.needed:
            args = () if i in self.known else self.ir[i].args
            depth[i] = max((depth[a] for a in args), default=0)
            if not self.given(i) and self.ir[i].op in REDUCTIONS:
                depth[i] += self.space(i) == self.swept
        nests: list[Nest] = []
        done = {i for i in self.needed if self.given(i)}
        kept = [i for i in self.needed if not self.given(i) and not self.wide(i)]
        for level in range(max(depth.values(), default=0) + 1):
            found = [i for i in kept if depth[i] == level and self._swept_for(i)]
            if found:
                nests.append(Nest(self.swept, reductions=tuple(found)))
                done.update(found)
            self._narrow([i for i in kept if depth[i] == level and not self._swept_for(i)], done, nests)
        stored = tuple(sorted(i for i in set(self.program.statistics.values()) if self.wide(i)))
        if self.program.tensors or self.program.totals or stored:
            nests.append(Nest(self.swept, stored, last=True))
        return nests

    def _swept_for(self, i: int) -> bool:
        return self.ir[i].op in REDUCTIONS and self.space(i) == self.swept

    def _narrow(self, pending: list[int], done: set[int], nests: list[Nest]) -> None:
        """Group values with the same axes into nests, each value after what it needs."""
        while pending:
            ready = next(i for i in pending if all(a in done for a in self.ir[i].args))
            axes = self.space(ready)
            values: list[int] = []
            reductions: list[int] = []
            for i in pending:
                if self.space(i) == axes and all(a in done or a in values for a in self.ir[i].args):
                    (reductions if self.ir[i].op in REDUCTIONS else values).append(i)
            nests.append(Nest(axes, tuple(values), tuple(reductions)))
            done.update(values, reductions)
            pending = [i for i in pending if i not in done]
