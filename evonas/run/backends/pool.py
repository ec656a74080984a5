"""Evaluation slots on this machine: child processes, each killable on its own deadline.

A ``SlotPool`` belongs to one thread, which must call ``poll`` for anything to happen. It moves records
(see ``wire``) between a queue and its slots; it does not read what a candidate is.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import signal
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import psutil

from evonas.errors import EnvironmentUnusable, EvonasError
from evonas.evaluation.protocol import EvaluatorSpec
from evonas.run.backends import wire
from evonas.run.backends.launcher import Launcher, Log
from evonas.run.backends.limits import available_memory, default_memory_limit
from evonas.run.backends.note import StartNote
from evonas.run.backends.wire import Record

_SWEEP_S = 0.1
_MEMORY_S = 0.5
_READ = 1 << 16
#: Slots that die one after the other before they are ready: then the environment is to blame.
BREAKER = 5
#: Tasks whose evaluations take less than this are sent several at a time ...
_FAST_S = 0.002
#: ... as long as none of the recent ones took more than this.
_CALM_S = 0.05
_MAX_CHUNK = 64
#: Below this a slot is given one task ahead.
_MEDIUM_S = 0.5
#: Tasks queued behind one that runs longer than this are given to another slot as well.
_IMPATIENT_S = 1.0
#: A slot that has closed its channel gets this long to end by itself.
_FAREWELL_S = 2.0
#: Start requests that the server may have before it confirms them (its socket must never fill up).
_STARTING = 32


@dataclass(slots=True, eq=False)
class _Slot:
    name: int
    sock: socket.socket
    log: Log
    note: StartNote
    born: float
    reader: wire.FrameReader = field(default_factory=wire.FrameReader)
    #: sent and not answered, oldest first.
    queue: deque[Record] = field(default_factory=deque)
    out: bytearray = field(default_factory=bytearray)
    pid: int = 0
    ready: bool = False
    #: its socket is full; the rest of ``out`` follows when it takes more.
    blocked: bool = False
    #: when it was last given a task while it had none, or last answered.
    since: float = 0.0
    answered: int = 0
    #: number of the task that runs for so long that the others were given to other slots as well.
    shared: int = -1
    #: stands in the list of those that take tasks.
    listed: bool = False
    #: when it closed its channel (0: it has not).
    hung_up: float = 0.0
    #: why this pool ended it ("timeout", "out_of_memory", ...), "retired" if it left by itself.
    verdict: str = ""
    process: psutil.Process | None = None
    base_rss: int = 0

    def close(self) -> None:
        self.sock.close()
        self.log.close()
        self.note.close()

    def running(self) -> tuple[int, float]:
        """Position in ``queue`` of the task that it works on, and since when."""
        begun, at = self.note.read()
        position = begun - 1 - self.answered
        if 0 <= position < len(self.queue):
            return position, at
        return 0, self.since


class SlotPool:
    """``capacity`` slots that evaluate what ``spec`` names.

    Args:
        memory_limit: bytes that a slot may use beyond what it holds when it is ready; None: a share of
            what is available, at least 1 GiB.
        gpus: device numbers (as for ``CUDA_VISIBLE_DEVICES``) that the slots take in turn.
        start_timeout_s: a slot that is not ready by then is killed and counts as dead.
    """

    def __init__(
        self,
        spec: EvaluatorSpec,
        capacity: int,
        *,
        memory_limit: int | None = None,
        gpus: Sequence[str] = (),
        start_timeout_s: float = 300.0,
    ) -> None:
        self.capacity = capacity
        self._spec = spec
        self._cuda = bool(gpus) or str(spec.options.get("device", "")).startswith("cuda")
        self._gpus = tuple(gpus)
        self._memory_limit = memory_limit or default_memory_limit(capacity)
        self._start_timeout = start_timeout_s
        self._selector = selectors.DefaultSelector()
        self._launcher: Launcher | None = None
        self._mode = "starting"
        self._note: str | None = None
        self._slots: dict[int, _Slot] = {}
        self._names = 0
        self._waiting: deque[Record] = deque()
        self._open: set[int] = set()
        self._idle: deque[_Slot] = deque()
        self._answers: list[Record] = []
        self._restarts = 0
        self._starting = 0
        self._stillborn = 0
        self._last_tail = ""
        self._low = 0
        #: of recent evaluations, seconds; long until there is evidence.
        self.mean_s = 1.0
        self._peak_s = 1e3
        self._fatal: EvonasError | None = None
        self._next_sweep = 0.0
        self._next_memory = 0.0

    # -- life ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the fork server; slots follow as soon as it has loaded what they share."""
        self._launcher = Launcher(self._spec, memory_limit=self._memory_limit, cuda=self._cuda)
        self._mode = "starting"
        self._selector.register(self._launcher.fileno(), selectors.EVENT_READ, None)

    def close(self) -> None:
        """Kill every slot and the server, and wait for them."""
        for slot in self._slots.values():
            slot.close()
        self._slots.clear()
        self._idle.clear()
        if self._launcher is not None:
            self._launcher.close()
            self._launcher = None
        self._selector.close()

    def fork_pid(self) -> int:
        return self._launcher.pid if self._launcher is not None else 0

    def describe(self) -> dict[str, Any]:
        """Plain values: slots wanted, ready and busy, replacements, process ids, memory."""
        slots = list(self._slots.values())
        return {
            "capacity": self.capacity,
            "ready": sum(s.ready for s in slots),
            "busy": sum(bool(s.queue) for s in slots),
            "waiting": len(self._waiting),
            "restarts": self._restarts,
            "mode": self._mode,
            "note": self._note,
            "server_pid": self.fork_pid(),
            "pids": [s.pid for s in slots if s.pid],
            "memory_limit": self._memory_limit,
            "available_memory": available_memory(),
        }

    # -- work ---------------------------------------------------------------------------------------

    def submit(self, records: Sequence[Record]) -> None:
        """Queue tasks. Tickets must be unique among the tasks that are not answered yet."""
        self._waiting.extend(records)
        self._open.update(r[0] for r in records)
        self._assign()

    def poll(self, timeout: float) -> list[Record]:
        """Answers as ``(ticket, seconds, outcome JSON)``; blocks for the first one or ``timeout`` seconds.

        Raises:
            EnvironmentUnusable: slots die before they are ready, again and again.
            EvonasError: the evaluator cannot be built (unknown name, broken plug-in, bad options).
        """
        if self._fatal is not None:
            raise self._fatal
        end = monotonic() + timeout
        try:
            while True:
                now = monotonic()
                if now >= self._next_sweep:
                    self._sweep(now)
                wait = min(end, self._next_sweep) - now if not self._answers else 0.0
                self._pump(max(0.0, wait))
                self._assign()
                if self._answers or monotonic() >= end:
                    answers, self._answers = self._answers, []
                    return answers
        except EvonasError as error:
            self._fatal = error
            raise

    def _pump(self, wait: float) -> None:
        for key, events in self._selector.select(wait):
            slot = key.data
            if slot is None:
                self._hear()
            elif slot.name in self._slots:  # not buried since the select
                if events & selectors.EVENT_WRITE:
                    self._flush(slot)
                if events & selectors.EVENT_READ:
                    self._read(slot)

    def _assign(self) -> None:
        waiting, idle = self._waiting, self._idle
        if not waiting or not idle:
            return
        chunk = 1
        if self.mean_s < _FAST_S and self._peak_s < _CALM_S:
            chunk = min(_MAX_CHUNK, max(1, int(_FAST_S / max(self.mean_s, 1e-6))))
        # Evaluations of a fraction of a second: each slot has its next task before it has answered, so that
        # answers may be taken several at a time. Longer ones wait for the first slot that is free.
        ahead = self.mean_s < _MEDIUM_S and self._peak_s < _IMPATIENT_S
        self._low = max(chunk // 2, int(ahead))
        now = monotonic()
        while waiting and idle:
            slot = idle.pop()
            slot.listed = False
            records = [waiting.popleft() for _ in range(min(chunk, len(waiting)))]
            # A task that was given to a second slot may have been answered by the first one meanwhile.
            records = [r for r in records if r[0] in self._open]
            if not records:
                self._list(slot)
                continue
            if not slot.queue:
                slot.since = now
            slot.queue.extend(records)
            slot.out += wire.frame(wire.TASKS, wire.pack_records(records))
            self._flush(slot)
            if len(slot.queue) <= self._low:
                self._list(slot)

    def _list(self, slot: _Slot) -> None:
        if slot.ready and not slot.listed and not slot.verdict and not slot.hung_up:
            slot.listed = True
            if slot.queue:
                self._idle.appendleft(slot)
            else:
                self._idle.append(slot)

    def _flush(self, slot: _Slot) -> None:
        try:
            while slot.out:
                sent = slot.sock.send(slot.out)
                del slot.out[:sent]
        except BlockingIOError:
            pass
        except OSError:
            slot.out.clear()
        if bool(slot.out) != slot.blocked and not slot.hung_up:
            slot.blocked = bool(slot.out)
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if slot.blocked else 0)
            self._selector.modify(slot.sock, events, slot)

    def _read(self, slot: _Slot) -> None:
        while True:
            try:
                data = slot.sock.recv(_READ)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(slot.sock)
                self._unlist(slot)
                slot.hung_up = monotonic()
                return
            try:
                for kind, payload in slot.reader.feed(data):
                    self._take(slot, kind, payload)
            except wire.WireError as error:
                self._kill(slot, f"error: unreadable answer ({error})")
                return
            if len(data) < _READ:
                return

    def _take(self, slot: _Slot, kind: bytes, payload: bytes) -> None:
        if kind == wire.ANSWERS:
            slot.since = monotonic()
            for record in wire.unpack_records(payload):
                if not slot.queue or slot.queue[0][0] != record[0]:
                    raise wire.WireError("an answer to a task that the slot was not given")
                slot.queue.popleft()
                slot.answered += 1
                seconds = record[1]
                self.mean_s += (seconds - self.mean_s) / 16
                self._peak_s = max(0.98 * self._peak_s, seconds)
                self._answer(record)
            if len(slot.queue) <= self._low:
                if not slot.queue:
                    self._unlist(slot)
                self._list(slot)
        elif kind == wire.READY:
            slot.ready = True
            self._stillborn = 0
            self._list(slot)
        elif kind == wire.RETIRE:
            self._unlist(slot)
            slot.verdict = "retired"
        elif kind == wire.FATAL:
            raise wire.load_error(json.loads(payload))

    def _answer(self, record: Record) -> None:
        if record[0] in self._open:
            self._open.remove(record[0])
            self._answers.append(record)

    def _unlist(self, slot: _Slot) -> None:
        if slot.listed:
            slot.listed = False
            self._idle.remove(slot)

    # -- deaths and replacements --------------------------------------------------------------------

    def _hear(self) -> None:
        assert self._launcher is not None
        messages = self._launcher.receive()
        if messages is None:
            self._server_died()
            return
        for message in messages:
            event = message["event"]
            if event == "hello":
                self._mode, self._note = message["mode"], message["note"]
                self._start_slots()
            elif event == "started" and message["slot"] in self._slots:
                self._slots[message["slot"]].pid = message["pid"]
                self._starting -= 1
                self._start_slots()
            elif event == "exit" and message["slot"] in self._slots:
                self._bury(self._slots[message["slot"]], message["code"])
            elif event == "fatal":
                raise wire.load_error(message["error"])

    def _server_died(self) -> None:
        launcher = self._launcher
        assert launcher is not None
        self._last_tail = launcher.log.tail()
        self._selector.unregister(launcher.fileno())
        launcher.close()
        self._mode = "starting"
        self._starting = 0
        self._stillborn += 1
        for slot in list(self._slots.values()):
            self._bury(slot, None)
        self._check_breaker()
        self.start()

    def _start_slots(self) -> None:
        while len(self._slots) < self.capacity and self._starting < _STARTING:
            self._start_slot()

    def _start_slot(self) -> None:
        assert self._launcher is not None
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._names += 1
        slot = _Slot(self._names, ours, Log(), StartNote(), monotonic())
        env = {"CUDA_VISIBLE_DEVICES": self._gpus[slot.name % len(self._gpus)]} if self._gpus else {}
        with theirs:
            self._launcher.start(slot.name, theirs, slot.log, slot.note, env)
        self._slots[slot.name] = slot
        self._starting += 1
        self._selector.register(ours, selectors.EVENT_READ, slot)

    def _kill(self, slot: _Slot, verdict: str) -> None:
        slot.verdict = slot.verdict or verdict
        self._unlist(slot)
        if self._launcher is not None:
            self._launcher.kill(slot.name)

    def _bury(self, slot: _Slot, code: int | None) -> None:
        """A slot has ended: answer for the task that it was working on, move the others, replace it."""
        if slot.sock in self._selector.get_map():
            self._read(slot)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(slot.sock)
        self._slots.pop(slot.name, None)
        self._unlist(slot)
        position, since = slot.running()
        tail = slot.log.tail()
        slot.close()
        if slot.queue and slot.verdict != "retired":
            culprit = slot.queue[position]
            del slot.queue[position]
            self._blame(slot, culprit, monotonic() - since, code, tail)
        self._waiting.extendleft(r for r in reversed(slot.queue) if r[0] in self._open)
        self._restarts += 1
        if not slot.ready:
            self._stillborn += 1
            self._last_tail = f"{_ending(code)}\n{tail}".strip()
            self._check_breaker()
        if code is not None:
            self._start_slots()

    def _blame(self, slot: _Slot, record: Record, seconds: float, code: int | None, tail: str) -> None:
        if record[0] not in self._open:
            return
        if slot.verdict:
            self._answer(wire.failure_record(record, slot.verdict, seconds=seconds))
            return
        reason = f"slot {_ending(code)}" + (f": {tail}" if tail else "")
        self._answer(wire.failure_record(record, reason, status="lost", seconds=seconds))

    def _check_breaker(self) -> None:
        if self._stillborn >= BREAKER:
            raise EnvironmentUnusable(
                f"{self._stillborn} evaluation slots in a row died before they were ready; the last one "
                f"{self._last_tail or 'left no message'}",
                hint="run `evonas doctor`, or search with --workers 1 to see the error in this process",
            )

    def _sweep(self, now: float) -> None:
        """Deadlines, slow starts, memory: once in a while, over all slots."""
        self._next_sweep = now + _SWEEP_S
        for slot in list(self._slots.values()):
            if slot.verdict:
                continue
            if slot.hung_up:
                if now - slot.hung_up > _FAREWELL_S:
                    self._kill(slot, "")
            elif slot.queue:
                position, since = slot.running()
                if now - since > slot.queue[position][1]:
                    self._kill(slot, "timeout")
                elif now - since > _IMPATIENT_S and len(slot.queue) > 1:
                    self._share(slot, position)
            elif not slot.ready and now - slot.born > self._start_timeout:
                self._kill(slot, f"not ready after {self._start_timeout:.0f} s")
        if now >= self._next_memory:
            self._next_memory = now + _MEMORY_S
            for slot in list(self._slots.values()):
                self._weigh(slot)

    def _share(self, slot: _Slot, position: int) -> None:
        """Give the other tasks of a busy slot to others too; the first answer counts."""
        running = slot.answered + position
        if slot.shared != running:
            slot.shared = running
            self._unlist(slot)
            others = [r for i, r in enumerate(slot.queue) if i != position and r[0] in self._open]
            self._waiting.extendleft(reversed(others))

    def _weigh(self, slot: _Slot) -> None:
        slot.log.trim()
        if not slot.ready or not slot.pid or slot.verdict:
            return
        try:
            if slot.process is None:
                slot.process = psutil.Process(slot.pid)
            rss = int(slot.process.memory_info().rss)
        except psutil.Error:
            return
        if not slot.base_rss:
            slot.base_rss = rss
        if rss - slot.base_rss > self._memory_limit:
            self._kill(slot, "out_of_memory")


def _ending(code: int | None) -> str:
    if code is None:
        return "ended with the process that started it"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by signal {-code} ({signal.Signals(-code).name})"
        return f"killed by signal {-code}"
    return f"exited with code {code}"
