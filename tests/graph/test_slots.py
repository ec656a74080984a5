"""Names of the places of a layer in a network, and groups of them."""

from __future__ import annotations

from itertools import combinations

import pytest

from evonas.errors import UsageError
from evonas.graph.slots import ACT_SLOTS, NORM_SLOTS, SLOTS, check_slot, expand, group_name


def test_groups():
    assert expand("norm") == NORM_SLOTS
    assert expand("act") == ACT_SLOTS == ("ffn",)
    assert expand("all") == SLOTS
    assert expand("final + pre_attention") == ("pre_attention", "final")
    assert expand("norm+act") == SLOTS


def test_names_and_groups_are_inverse():
    for size in range(1, len(SLOTS) + 1):
        for slots in combinations(SLOTS, size):
            assert expand(group_name(slots)) == slots
    assert [group_name(expand(g)) for g in ("all", "norm", "act", "norm+ffn")] == [
        "all",
        "norm",
        "act",
        "all",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("norms", r"did you mean 'norm'"),
        ("", "slot ''"),
        ("norm+final", "names slot 'final' twice"),
        ("ffn+act", "names slot 'ffn' twice"),
    ],
)
def test_bad_groups(text, message):
    with pytest.raises(UsageError, match=message):
        expand(text)


def test_bad_slot():
    assert check_slot("ffn") == "ffn"
    with pytest.raises(UsageError, match=r"did you mean 'pre_ffn'"):
        check_slot("preffn")
