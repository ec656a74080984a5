"""The places of a layer in a network, by name, and groups of them.

A token network asks for a layer with the name of its place, a *slot*. ``norm`` stands for all places of a norm,
``act`` for that of an activation, ``all`` for both, and names join with ``+``: ``pre_attention+final``. The
networks for images have one kind of place and ask without a name.
"""

from __future__ import annotations

from collections.abc import Iterable

from evonas.errors import UsageError, unknown_name

#: before and after attention, before and after the feed-forward part, on the landmarks of softmax-free attention,
#: before the readout.
NORM_SLOTS = ("pre_attention", "post_attention", "pre_ffn", "post_ffn", "landmark", "final")
#: inside the feed-forward part.
ACT_SLOTS = ("ffn",)
SLOTS = (*NORM_SLOTS, *ACT_SLOTS)
GROUPS: dict[str, tuple[str, ...]] = {"all": SLOTS, "norm": NORM_SLOTS, "act": ACT_SLOTS}


def expand(group: str) -> tuple[str, ...]:
    """The slots that a group stands for, in the order of ``SLOTS``.

    Raises:
        UsageError: an unknown name, or a slot that is named twice.
    """
    found: list[str] = []
    for name in (part.strip() for part in group.split("+")):
        if name not in GROUPS and name not in SLOTS:
            raise unknown_name(
                "slot", name, (*GROUPS, *SLOTS), hint="write for example norm, act or pre_ffn+final"
            )
        found += GROUPS.get(name, (name,))
    if len(set(found)) != len(found):
        twice = next(slot for slot in found if found.count(slot) > 1)
        raise UsageError(f"{group!r} names slot {twice!r} twice", hint="name each slot once")
    return tuple(slot for slot in SLOTS if slot in found)


def group_name(slots: Iterable[str]) -> str:
    """The shortest text that ``expand`` turns into these slots: ``all``, ``norm``, ``act``, or names joined."""
    wanted = set(slots)
    for name, members in GROUPS.items():
        if wanted == set(members):
            return name
    parts = []
    if wanted > set(NORM_SLOTS):
        parts.append("norm")
        wanted -= set(NORM_SLOTS)
    return "+".join([*parts, *(slot for slot in SLOTS if slot in wanted)])


def check_slot(slot: str) -> str:
    """``slot`` if it is one; ``UsageError`` with the nearest name otherwise."""
    if slot not in SLOTS:
        raise unknown_name("slot", slot, SLOTS)
    return slot
