"""Options of a space: what they do, what is refused, and how often each operation is drawn."""

from __future__ import annotations

import collections
import json

import pytest
from evonas.search_spaces import SpaceOptions, registry
from evonas.search_spaces.sampler import operation_table

from evonas import search_spaces
from evonas.errors import PluginError, UsageError
from evonas.rng import Draws

REFUSED = [
    ({"nodse": 3}, "unknown space option 'nodse'.*did you mean 'nodes'"),
    ({"nodes": 0}, "nodes = 0 does not fit.*1 to 200"),
    ({"nodes": 201}, "nodes = 201"),
    ({"nodes": "ten"}, "nodes = 'ten' does not fit"),
    ({"nodes": True}, "nodes = True does not fit"),
    ({"op_draw": "rows"}, "op_draw = 'rows' does not fit.*row or concrete"),
    ({"distinct_inputs": 1}, "distinct_inputs = 1 does not fit.*true or false"),
    ({"constant_one": "yes"}, "constant_one = 'yes'"),
    ({"index_sets": ("w,q",)}, "uses axis 'q', which layout 'nchw' .* does not have"),
    ({"index_sets": ("t",)}, "uses axis 't', which layout 'nchw'"),
    ({"index_sets": ("w,w",)}, "a repeated axis"),
    ({"mutation_weights": {"replace": 1, "swap": 1}}, "unknown mutation 'swap'"),
    ({"mutation_weights": {"replace": 0}}, ">= 0 that are not all 0"),
    ({"mutation_weights": {"replace": -1, "insert": 2}}, "weights >= 0"),
    ({"mutation_weights": {"replace": float("nan")}}, "weights >= 0"),
    ({"mutation_weights": {"replace": "much"}}, "weights >= 0"),
    ({"mutation_weights": {"replace": float("inf")}}, "weights >= 0"),
    ({"index_sets": 3}, "index_sets = 3 does not fit"),
    ({"extra_primitives": [1]}, "extra_primitives = .1. does not fit"),
    ({"mutation_weights": 3}, "mutation_weights = 3 does not fit"),
    ({"extra_primitives": ("tanhh",)}, "did you mean 'tanh'"),
    ({"extra_primitives": ("one",)}, "cannot be a row of a space.*constant_one=true"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda v: str(v)[:40])
def test_bad_options_are_explained(options, message):
    with pytest.raises(UsageError, match=f"(?s){message}"):
        search_spaces.get("norm_act", **options)


def test_unknown_space():
    with pytest.raises(UsageError, match=r"(?s)unknown space 'norm_atc'.*did you mean 'norm_act'"):
        search_spaces.get("norm_atc")


def test_the_paper_space():
    space = search_spaces.get("norm_act")
    assert space.inputs == ("x", "0", "v0", "v1")
    assert space.nodes == 10
    assert len(space.rows) == 15
    assert len(space.operations) == 24
    assert {",".join(op.index) for op in space.operations if op.index} == {"b,w,h", "w,h", "w,h,c", "w,h,c/g"}
    assert not space.options.batch_independent
    assert search_spaces.get("norm_act_s").options.batch_independent


def test_activation_has_no_moments():
    space = search_spaces.get("activation")
    assert all(op.index is None for op in space.operations)
    assert space.inputs[-1] == "1"
    assert all(not space.graph(space.random(Draws("a", i))).index_sets for i in range(200))


def test_text_of_a_configuration_file_is_read():
    space = search_spaces.get("norm_act", index_sets="w,h; c", extra_primitives="erf;sub")
    assert space.index_sets == (("w", "h"), ("c",))
    assert space.rows[-2:] == ("erf", "sub")


def test_identity_changes_with_everything_that_changes_draws():
    variants = [{}, {"nodes": 9}, {"op_draw": "concrete"}, {"distinct_inputs": True}, {"constant_one": True},
                {"index_sets": ("w,h",)}, {"extra_primitives": ("erf",)}, {"mutation_weights": {"insert": 1.0}},
                {"batch_independent": True}]  # fmt: skip
    identities = [search_spaces.get("norm_act", **options).identity() for options in variants]
    assert len(set(identities)) == len(variants)
    assert identities[0] == search_spaces.get("norm_act").identity()
    assert search_spaces.get("norm_act_s").identity() != identities[-1]  # the name is part of it


def test_a_description_is_json_and_names_everything():
    described = search_spaces.get("norm_act", extra_primitives=("erf",)).describe()
    assert json.loads(json.dumps(described)) == described
    assert described["options"]["nodes"] == 10
    assert described["primitives"]["erf"]["source"] == "Derf, arXiv 2512.10938"


def test_registering_a_space(monkeypatch):
    monkeypatch.setattr(registry, "_SPACES", dict(registry._SPACES))
    options = SpaceOptions(nodes=3, index_sets=("c",))
    search_spaces.space("acme_tokens", layout="btc", rows=("add", "std"), options=options, summary="small")
    search_spaces.space("acme_tokens", layout="btc", rows=("add", "std"), options=options)
    assert "acme_tokens" in search_spaces.names()
    with pytest.raises(PluginError, match="defined twice"):
        search_spaces.space("acme_tokens", layout="btc", rows=("add",), options=options)
    space = search_spaces.get("acme_tokens", index_sets=("t,c",))
    assert str(space.decode(space.random(Draws("t")))).count("[w") == 0
    search_spaces.space("acme_empty", layout="btc", rows=(), options=options)
    with pytest.raises(UsageError, match="has no primitive"):
        search_spaces.get("acme_empty")


def shares(space, n=3000):
    count = collections.Counter()
    pairs = same = 0
    for i in range(n):
        for op, args, index in space.decode(space.random(Draws("share", i))).nodes:
            count[op, index] += 1
            if len(args) == 2:
                pairs += 1
                same += args[0] == args[1]
    total = sum(count.values())
    return {key: value / total for key, value in count.items()}, same / pairs


def test_operations_are_drawn_by_row():
    share, same = shares(search_spaces.get("norm_act"))
    for (_, index), value in share.items():
        assert value == pytest.approx(1 / 15 if index is None else 1 / 60, rel=0.12)
    assert same == pytest.approx(sum(1 / n for n in range(4, 14)) / 10, rel=0.1)


def test_operations_are_drawn_as_concrete_pairs():
    share, _ = shares(search_spaces.get("norm_act", op_draw="concrete"))
    assert len(share) == 24
    for value in share.values():
        assert value == pytest.approx(1 / 24, rel=0.12)


def test_distinct_inputs_are_uniform_over_pairs():
    space = search_spaces.get("norm_act", distinct_inputs=True, nodes=1)
    seen = collections.Counter()
    for i in range(12000):
        code, a, b = space.random(Draws("pair", i))
        if space.arities[code] == 2:
            seen[a, b] += 1
    assert len(seen) == 12
    assert max(seen.values()) / min(seen.values()) < 1.5


def test_a_draw_table_is_exact():
    assert operation_table([[0], [1, 2], [3, 4, 5]]).count(0) == 6
    table = operation_table([[0], [1, 2], [3, 4, 5]])
    assert [table.count(i) for i in range(6)] == [6, 3, 3, 2, 2, 2]


def test_mutation_weights_are_shares():
    space = search_spaces.get("norm_act", mutation_weights={"replace": 3, "rewire": 1})
    genotype = space.random(Draws("parent"))
    kinds = collections.Counter(space.mutate(genotype, Draws("w", i))[1] for i in range(2000))
    assert kinds["rewire"] / 2000 == pytest.approx(0.25, abs=0.03)
    assert set(kinds) == {"replace", "rewire"}


#: First bytes of random genotypes, fixed so that a change of the meaning of draws, which breaks logs, is seen.
GOLDEN = {
    "norm_act": "0801ff0002031300ff0b05ff0805ff0b04ff0a07ff1009ff0802ff0e0cff",
    "distinct": "0902ff1700ff0403ff0305040d07ff1108ff0801ff070aff0204050a03ff",
    "concrete": "1401ff1002ff0902ff0104051500ff0b06ff030909070aff00050b0f05ff",
    "replace": "0801ff0102011300ff0b05ff0805ff0b04ff0a07ff1009ff0802ff0e0cff",
    "insert": "0002031300ff0b04ff0804ff0b01ff0a06ff1008ff0802ff040bff0e0cff",
    "remove": "0801ff0002031300ff0b05ff0805ff0b04ff0a07ff1009ff0802ff0802ff",
    "rewire": "0801ff0002031300ff0b05ff0805ff0b04ff0a07ff1009ff0802ff0e05ff",
}


def golden():
    return {
        "norm_act": search_spaces.get("norm_act").random(Draws("golden", 0)).hex(),
        "distinct": search_spaces.get("norm_act", distinct_inputs=True).random(Draws("golden", 1)).hex(),
        "concrete": search_spaces.get("norm_act", op_draw="concrete").random(Draws("golden", 2)).hex(),
        **{
            kind: search_spaces.get("norm_act", mutation_weights={kind: 1})
            .mutate(search_spaces.get("norm_act").random(Draws("golden", 0)), Draws("golden", kind))[0]
            .hex()
            for kind in ("replace", "insert", "remove", "rewire")
        },
    }


def test_the_meaning_of_draws_is_fixed():
    assert golden() == GOLDEN
