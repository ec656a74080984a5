"""Slots on the nodes of a Ray cluster: one actor per node owns the slots there.

The driver keeps few calls in flight per actor. A call brings tasks and returns with answers, so that at
a high rate one call carries many of both and at a low rate one call waits for all slots.
"""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from evonas.errors import EnvironmentUnusable, PluginError
from evonas.evaluation.protocol import EvaluatorSpec, Outcome, Task
from evonas.plugins import describe_plugins, read_plugin
from evonas.run.backends import ray_actor, wire
from evonas.run.backends.base import check_room
from evonas.run.backends.ray_cluster import Cluster, share

#: Evaluations shorter than this are exchanged by many short calls, longer ones by one that waits.
_FAST_S = 0.005
#: A call that waits, waits this long for an answer if every slot has a task, ...
_WAIT_S = 1.0
#: ... and this long if a task that comes meanwhile could start at once: an actor takes one call at a time.
_STARVED_WAIT_S = 0.02
#: A call that waits goes on for at most this long after the first answer, to bring others along.
_LINGER_S = 0.05
#: Seconds in which the replies of short calls are taken together.
_GATHER_S = 0.002
_CALLS = 8
_START_S = 300.0
#: Actors that die one after the other without one answer in between: then the cluster is to blame.
BREAKER = 5


@dataclass(slots=True, eq=False)
class _Owner:
    node: str
    slots: int
    actor: Any
    #: call -> when it must have returned
    calls: dict[Any, float] = field(default_factory=dict)
    tasks: dict[int, Task] = field(default_factory=dict)
    greeting: Any = None
    ready: bool = False


class RayBackend:
    """``workers`` slots, spread over the nodes in proportion to their processors.

    Args:
        address: of a running cluster; None: a Ray of its own on this machine (or the one that this process
            is already connected to).
        gpus: devices to ask for on each node; its slots take them in turn.
        max_batch: tasks per message at most.
        grace_s: an actor that has not answered this long after it should have is killed and replaced.
    """

    def __init__(
        self,
        spec: EvaluatorSpec,
        workers: int,
        *,
        address: str | None = None,
        memory_limit: int | None = None,
        depth: int = 2,
        gpus: int = 0,
        max_batch: int = 256,
        grace_s: float = 60.0,
    ) -> None:
        self.capacity = workers
        self.depth = depth
        self._spec = spec
        self._address = address
        self._memory_limit = memory_limit
        self._gpus = gpus
        self._max_batch = max_batch
        self._grace = grace_s
        self._plugins = [_pack(plugin) for plugin in spec.plugins]
        self._cluster: Cluster | None = None
        self._owners: list[_Owner] = []
        self._waiting: deque[tuple[int, Task]] = deque()
        self._outcomes: list[Outcome] = []
        self._tickets = 0
        self._restarts = 0
        self._failures = 0
        self._mean_s = 0.01

    # -- life ---------------------------------------------------------------------------------------

    def start(self) -> None:
        self._cluster = Cluster(self._address)
        try:
            nodes = self._cluster.nodes()
            if not nodes:
                raise EnvironmentUnusable("no node of the Ray cluster has a processor", hint="ray start ...")
            for node, slots in share(self.capacity, nodes).items():
                self._owners.append(self._engage(node, slots))
            end = monotonic() + _START_S
            while not any(owner.ready for owner in self._owners):
                self._step(0.5)
                if monotonic() > end:
                    asked = ", ".join(f"{o.slots} on {o.node[:8]}" for o in self._owners)
                    raise EnvironmentUnusable(
                        f"no actor of the Ray cluster was ready after {_START_S:.0f} s (slots: {asked})",
                        hint="see `ray status`: other jobs may hold the processors that these need",
                    )
        except BaseException:
            self.close(now=True)
            raise

    def close(self, *, now: bool = False) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is None:
            return
        owners, self._owners = self._owners, []
        with contextlib.suppress(Exception):
            if not now:
                cluster.ray.wait(
                    [o.actor.close.remote() for o in owners], num_returns=len(owners), timeout=10.0
                )
        for owner in owners:
            with contextlib.suppress(Exception):
                cluster.ray.kill(owner.actor, no_restart=True)
        cluster.close()

    def describe(self) -> dict[str, Any]:
        """As ``SlotPool.describe``, summed over the nodes, with one entry per node under ``nodes``."""
        nodes = {}
        for owner in self._owners:
            state: dict[str, Any] = {}
            if owner.ready and self._cluster is not None:
                with contextlib.suppress(Exception):
                    state = self._cluster.ray.get(owner.actor.describe.remote(), timeout=5.0)
            nodes[owner.node] = {"slots": owner.slots, **state}
        return {
            "kind": "ray",
            "capacity": self.capacity,
            "ready": sum(n.get("ready", 0) for n in nodes.values()),
            "busy": sum(n.get("busy", 0) for n in nodes.values()),
            "waiting": len(self._waiting),
            "restarts": self._restarts + sum(n.get("restarts", 0) for n in nodes.values()),
            "pids": [pid for n in nodes.values() for pid in n.get("pids", ())],
            "nodes": nodes,
        }

    # -- work ---------------------------------------------------------------------------------------

    def submit(self, tasks: Sequence[Task]) -> None:
        check_room(len(self._waiting) + sum(len(o.tasks) for o in self._owners), len(tasks), self)
        for task in tasks:
            self._tickets += 1
            self._waiting.append((self._tickets, task))
        self._dispatch()

    def poll(self, timeout: float) -> list[Outcome]:
        end = monotonic() + timeout
        while True:
            self._step(max(0.0, end - monotonic()) if not self._outcomes else 0.0)
            if self._outcomes or monotonic() >= end:
                outcomes, self._outcomes = self._outcomes, []
                return outcomes

    def _step(self, timeout: float) -> None:
        """Send what there is to send, wait for the first call to return, take all that have returned."""
        self._dispatch()
        calls = {call: owner for owner in self._owners for call in owner.calls}
        calls.update({o.greeting: o for o in self._owners if o.greeting is not None})
        if not calls:
            return
        for call, reply in self._collect(list(calls), timeout):
            owner = calls[call]
            if owner not in self._owners:
                continue
            if isinstance(reply, bytes):
                self._receive(owner, call, reply)
            else:
                self._replace(owner, f"{type(reply).__name__}: {str(reply).strip().splitlines()[0]}")
        self._look_for_silence()
        self._dispatch()

    def _collect(self, pending: list[Any], timeout: float) -> Iterator[tuple[Any, Any]]:
        """Calls that have returned, each with its reply or the exception that ended it."""
        assert self._cluster is not None
        ray = self._cluster.ray
        done: list[Any] = []
        if self._mean_s < _FAST_S and len(pending) > 1:
            # At a high rate it is cheaper to look at some replies together than at each when it comes.
            done, _ = ray.wait(pending, num_returns=(len(pending) + 1) // 2, timeout=min(timeout, _GATHER_S))
        if not done:
            done, rest = ray.wait(pending, num_returns=1, timeout=min(timeout, _WAIT_S))
            if done and rest:
                done += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        try:
            replies = ray.get(done)
        except Exception:
            replies = []
            for call in done:
                try:
                    replies.append(ray.get(call))
                except Exception as error:
                    replies.append(error)
        return zip(done, replies, strict=True)

    def _receive(self, owner: _Owner, call: Any, reply: bytes) -> None:
        if reply[:1] == ray_actor.ERROR:
            raise wire.load_error(json.loads(reply[1:]))
        if call is owner.greeting:
            owner.greeting, owner.ready = None, True
            return
        owner.calls.pop(call, None)
        for ticket, seconds, body in wire.unpack_records(reply[1:]):
            task = owner.tasks.pop(ticket, None)
            if task is not None:
                self._mean_s += (seconds - self._mean_s) / 16
                self._failures = 0
                self._outcomes.append(wire.decode_outcome(task, body))

    def _dispatch(self) -> None:
        for owner in self._owners:
            if owner.ready:
                self._feed(owner)

    def _feed(self, owner: _Owner) -> None:
        fast = self._mean_s < _FAST_S
        while self._waiting and len(owner.calls) < _CALLS:
            room = owner.slots * self.depth - len(owner.tasks)
            starved = len(owner.tasks) < owner.slots
            if room <= 0 or (owner.calls and not fast and not starved):
                break
            batch = [self._waiting.popleft() for _ in range(min(room, self._max_batch, len(self._waiting)))]
            owner.tasks.update(batch)
            self._call(owner, [wire.encode_task(ticket, task) for ticket, task in batch], fast)
        if owner.tasks and not owner.calls:
            self._call(owner, [], False)

    def _call(self, owner: _Owner, records: list[wire.Record], fast: bool) -> None:
        wait = linger = 0.0
        if fast:
            pass
        elif len(owner.tasks) < owner.slots:
            wait = _STARVED_WAIT_S
        else:
            wait = _WAIT_S
            if self._mean_s >= _FAST_S:
                # Slots go on with the tasks that are queued beside them, if there are any.
                linger = min(_LINGER_S, self._mean_s / (3 if self.depth > 1 else 16))
        call = owner.actor.exchange.remote(ray_actor.pack_call(records, wait, linger))
        owner.calls[call] = monotonic() + _CALLS * _WAIT_S + self._grace

    # -- actors -------------------------------------------------------------------------------------

    def _engage(self, node: str, slots: int) -> _Owner:
        assert self._cluster is not None
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        cpus = 0.0 if self._cluster.started else min(float(slots), self._cluster.nodes().get(node, 0.0))
        remote = self._cluster.ray.remote(ray_actor.SlotOwner).options(
            num_cpus=cpus,
            num_gpus=self._gpus,
            max_restarts=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        actor = remote.remote(self._spec.to_json(), slots, self._memory_limit, self._plugins, self._gpus > 0)
        return _Owner(node, slots, actor, greeting=actor.start.remote(_START_S))

    def _replace(self, owner: _Owner, reason: str) -> None:
        """The actor is gone or silent: its tasks are lost, another one takes its slots."""
        assert self._cluster is not None
        with contextlib.suppress(Exception):
            self._cluster.ray.kill(owner.actor, no_restart=True)
        for task in owner.tasks.values():
            self._outcomes.append(wire.failure(task, f"the actor of the slot ended: {reason}", status="lost"))
        self._owners.remove(owner)
        self._restarts += 1
        self._failures += 1
        nodes = self._cluster.nodes()
        if self._failures >= BREAKER or not nodes:
            raise EnvironmentUnusable(
                f"{self._failures} Ray actors in a row ended without an answer; the last one: {reason}",
                hint="see that evonas is installed on every node, and `ray status`",
            )
        held = {o.node: o.slots for o in self._owners}
        node = owner.node
        if node not in nodes:
            node = min(nodes, key=lambda n: (held.get(n, 0) / nodes[n], n))
        self._owners.append(self._engage(node, owner.slots))

    def _look_for_silence(self) -> None:
        now = monotonic()
        for owner in list(self._owners):
            if any(now > due for due in owner.calls.values()):
                self._replace(owner, f"no answer for {self._grace:.0f} s")


def _pack(plugin: Any) -> ray_actor.PluginFile:
    """A plug-in with its content, as it was when the run was described."""
    path, sha256 = plugin["path"], plugin["sha256"]
    content = read_plugin(path)
    if describe_plugins([path])[0]["sha256"] != sha256:
        raise PluginError(
            f"the plug-in {path} is not the file that the run names (needed sha256 {sha256[:12]}...)",
            hint="restore the file, or start a new run with the changed one",
        )
    return Path(path).name, sha256, content
