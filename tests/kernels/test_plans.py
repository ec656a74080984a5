"""Plans of kernels for given sizes: schedules, errors, and what sources share. No torch, no triton."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from evonas.kernels.axes import dim_sizes, merge_axes
from evonas.kernels.lowering import passes, plans
from evonas.kernels.module_text import module_text
from evonas.kernels.plan import Plan, sweeps
from evonas.kernels.programs import LayerSpec
from evonas.kernels.tiling import LIMITS
from evonas.primitives.registry import define as define_primitive

from evonas import primitives
from evonas.errors import FormulaError, UsageError
from evonas.layers.zoo import ZOO

LN = "(x - mean[c](x)) / std[c](x)"
GROUP = ZOO["evonorm_s0"].formula
BATCH = ZOO["bn_relu"].formula


def names(plan: Plan) -> list[str]:
    return [launch.kernel.name.rstrip("0123456789").partition("_")[0] for launch in plan.launches]


def test_schedules() -> None:
    both = plans(LayerSpec(GROUP), (128, 256, 32, 32), 32)
    assert names(both.forward) == ["forward"]
    assert both.forward.resident
    assert both.backward.resident
    assert both.backward.launches[0].tiling.loop == "b"
    # a domain beyond a tile is swept by the one program that owns it, if there are programs enough
    both = plans(LayerSpec(BATCH), (128, 256, 32, 32), 32)
    assert both.forward.launches[0].tiling.swept == ("b",)
    # otherwise shared and merged
    both = plans(LayerSpec(BATCH), (128, 16, 32, 32), 16)
    assert names(both.forward) == ["statistics", "merge", "forward"]
    assert names(both.backward) == ["statistics", "merge", "backward"]
    both = plans(LayerSpec(BATCH), (128, 16, 32, 32), 16, replace(LIMITS, cooperative=True))
    assert names(both.forward) == ["forward"]
    assert both.forward.launches[0].cooperative


def test_elements_of_a_thread() -> None:
    def threads(plan: Plan) -> list[float]:
        return [one.tiling.tile_elements / (32 * one.warps) for one in plan.launches if one.tiling]

    # 16 for a single tile, 8 where a program goes through several
    assert threads(plans(LayerSpec(GROUP), (128, 256, 32, 32), 32).forward) == [16]
    assert threads(plans(LayerSpec(BATCH), (128, 256, 32, 32), 32).forward) == [8]
    assert threads(plans(LayerSpec(BATCH), (128, 16, 32, 32), 16).forward) == [8, 16]
    # but not if each had no more than 64 registers, unless there is much to do
    assert threads(plans(LayerSpec(LN), (128, 256, 32, 32), 1).backward) == [16]
    assert threads(plans(LayerSpec(GROUP), (128, 256, 32, 32), 32).backward) == [8]


def test_cuda_kernels_call_no_library_but_for_the_error_function() -> None:
    for name, entry in ZOO.items():
        both = plans(LayerSpec(entry.formula), (128, 256, 32, 32), 32)
        for launches in (both.forward.launches, both.backward.launches):
            for maths in ("fast", "half"):
                text = module_text(name, launches, maths)
                assert not re.search(r"libdevice|tl\.(exp2?|log2?|sqrt(_rn)?|rsqrt|sigmoid)\(", text)
                assert ("tl.erf(" in text) == ("erf(" in entry.formula)


def test_layers_share_the_kernels_that_merge() -> None:
    def merge(formula: str) -> tuple[int, str]:
        plan = plans(LayerSpec(formula), (128, 16, 32, 32), 16).forward
        before, start, after = module_text(formula, plan.launches, "half").partition(
            "@triton.jit\ndef merge_"
        )
        return before.count("\n"), start + after.partition("\n\n")[0]

    first, second = merge(BATCH), merge("tanh(x - mean[b,w,h](x)) / std[b,w,h](x)")
    assert first == second
    assert "def merge_mean_var(" in first[1]
    # once in a file, however many launches it has
    apart = plans(LayerSpec("exp(std[w,h,c](rms[w,h](x)))"), (128, 256, 32, 32), 32).backward.launches
    text = module_text("", apart, "half")
    for launch in apart:
        assert text.count(f"def {launch.kernel.name}(") == 1


def test_what_registers_cannot_hold_is_made_again() -> None:
    def text(formula: str, registers: int) -> str:
        both = plans(LayerSpec(formula), (128, 256, 32, 32), 32, replace(LIMITS, registers=registers))
        return module_text("", both.backward.launches, "fast")

    light, heavy = GROUP, "exp(tanh(x)) * std[w,h,c/g](x) / (x - v0)"
    assert "afresh(" not in text(light, 1 << 16)
    assert "afresh(" in text(heavy, 1 << 16)
    assert "afresh(" not in text(heavy, 0)  # AMD
    assert "afresh(" in text(light, 1 << 15)


def test_statistics_of_statistics_are_found_apart() -> None:
    formula = "exp(std[w,h,c](rms[w,h](x)))"
    both = plans(LayerSpec(formula), (128, 256, 32, 32), 32)
    assert names(both.backward) == [*["statistics", "merge"] * 3, "backward"]
    readers = [launch for launch in both.backward.launches if "dy" in launch.kernel.reads]
    assert [launch.kernel.name for launch in readers] == ["statistics"]
    # a launch costs more than a sweep over a small tensor
    small = plans(LayerSpec(formula), (128, 16, 32, 32), 16, replace(LIMITS, resident_backward=1024))
    assert len(small.backward.launches) <= 3


def test_a_sweep_for_statistics_writes_what_is_ready() -> None:
    """dx needs no statistic, the gradients of v0 and v1 need a sum over everything: one sweep sees to both."""
    both = plans(LayerSpec("rms[w,h,c](max(v1, v0)) * x"), (128, 256, 32, 32), 32)
    first, *others = both.backward.launches
    assert (first.kernel.name, first.kernel.writes["dx"]) == ("statistics", 1)
    assert not {"x", "dy", "dx"} & {b for launch in others for b in launch.tensors}
    assert sweeps(both.backward) == 3
    assert names(both.backward) == ["statistics", "merge", "backward"]
    assert {"dv0", "dv1", "dweight", "dbias"} <= set(both.backward.buffers)


def test_a_sweep_for_statistics_finds_those_of_its_blocks() -> None:
    for formula in ("std[b,w,h](mean[w,h](x) + x)", "std[b,w,h](log(x)) / rms[w,h](tanh(log(x)))"):
        forward = plans(LayerSpec(formula), (128, 256, 32, 32), 32).forward
        assert names(forward) == ["statistics", "merge", "forward"]
        assert "passing0_0" in forward.buffers
        assert sweeps(forward) == 2, formula


def test_what_only_tensors_need_is_left_to_the_kernel_that_writes_them() -> None:
    """The sums of dy over positions are all that is needed of it, the mean over positions of x can wait for x."""
    backward = plans(
        LayerSpec("mean[w,h,c/g](rms[w,h,c](v0) / max(rms[w,h](x), x))"), (128, 256, 32, 32), 32
    ).backward
    assert [launch.kernel.name for launch in backward.launches if "x" in launch.tensors] == ["backward"]
    assert sweeps(backward) == 3


def test_quotients_are_taken_apart_in_means() -> None:
    """What varies less than the rest is no reason to go through a tensor again."""
    program = passes(LayerSpec("mean[w,h](rms[w,h](x) / max(v0, tanh(x)))"), True)
    ir = program.forward.ir
    found = [ir[ir[i].args[0]].op for i in ir.reductions(program.forward.roots)]
    assert "div" not in found
    # a quotient of two tensors stays what it is
    program = passes(LayerSpec("mean[w,h,c/g](v0 * (tanh(x) / max(v0, x)))"), True)
    ir = program.forward.ir
    assert "div" in {ir[i].op for i in ir.reachable(program.forward.roots)}


def test_the_variance_of_a_sum_with_an_invariant_is_a_variance() -> None:
    for formula in ("std[b,w,h](v1 + sigmoid(x))", "std[b,w,h](v1 - x)", "std[w,h](mean[w,h](x) + x)"):
        program = passes(LayerSpec(formula), False).forward
        assert [program.ir[i].op for i in program.ir.reductions(program.roots)] == ["mean", "var"], formula


def test_one_source_serves_all_widths_of_a_class() -> None:
    def text(*shape: int) -> str:
        both = plans(LayerSpec(GROUP), shape, shape[1] // 8)
        return module_text("", both.forward.launches, "fast") + module_text(
            "", both.backward.launches, "fast"
        )

    assert text(128, 256, 32, 32) == text(64, 512, 32, 32) == text(9, 64, 16, 32)
    tokens = {
        module_text("", plans(LayerSpec(LN, "btc"), (8, 2048, c), 1).backward.launches, "fast")
        for c in (1024, 2048, 4096)
    }
    assert len(tokens) == 1


def test_axes_merge_where_nothing_tells_them_apart() -> None:
    group, everything = frozenset({"k", "h", "w"}), frozenset({"g", "k"})
    assert merge_axes("nchw", "contiguous", [group, everything]).names == ("b", "g", "k", "p")
    assert merge_axes("nchw", "contiguous", [everything]).names == ("b", "c", "p")
    assert merge_axes("nchw", "channels_last", [everything]).names == ("r", "c")
    assert merge_axes("btc", "contiguous", [everything]).names == ("r", "c")
    assert merge_axes("nchw", "contiguous", []).names == ("e",)
    assert len(set(merge_axes("nchw", "contiguous", [group]).names)) == 2


def test_what_is_saved_does_not_depend_on_the_schedule() -> None:
    narrow = replace(LIMITS, resident_forward=32, resident_backward=32, fill=32, small=0)
    for name, entry in ZOO.items():
        for shape in ((2, 8, 4, 4), (64, 16, 8, 8)):
            saved = {plans(LayerSpec(entry.formula), shape, 4, limits).saved for limits in (LIMITS, narrow)}
            assert len(saved) == 1, name


def test_the_mean_of_a_short_row_is_found_again() -> None:
    short, long = (plans(LayerSpec(LN, "btc"), (8, 64, c), 1) for c in (1024, 16384))
    assert (len(short.saved), len(long.saved)) == (1, 2)
    assert short.backward.resident
    # one number of the row beside x, y, weight and bias
    assert short.forward.launches[0].kernel.writes == {"y": 1, short.saved[0]: 1}


@pytest.mark.parametrize(
    ("spec", "shape", "groups", "message"),
    [
        (LayerSpec(GROUP), (0, 8, 4, 4), 4, "is empty"),
        (LayerSpec(GROUP), (2, 8, 4, 4), 3, "3 groups do not divide 8 channels"),
        (LayerSpec(GROUP), (2, 8, 4), 4, "does not fit layout"),
        (LayerSpec(GROUP), (1, 2, 2**16, 2**16), 1, "too large"),
        (LayerSpec("max(x, 0)", affine=False), (2**13, 2**13, 2**9, 2), 1, "too large"),
        (LayerSpec("x / rms[w,h](x)"), (2**16, 2**15, 64, 128), 1, "a grid has at most"),
    ],
)
def test_bad_input(spec: LayerSpec, shape: tuple[int, ...], groups: int, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        plans(spec, shape, groups, replace(LIMITS, fill=1))
    assert caught.value.message.startswith(f"{spec.formula}: ")
    assert caught.value.hint


def test_a_memory_order_that_there_is_not() -> None:
    with pytest.raises(UsageError, match="memory order"):
        plans(LayerSpec(GROUP, memory="rows_last"), (2, 8, 4, 4), 4)


def test_a_node_that_cannot_be_lowered() -> None:
    """It is named, as a formula, beside the layer's formula."""
    with pytest.raises(UsageError) as caught:
        plans(LayerSpec("x - tanh(cmean[t](x))", "btc"), (2, 3, 4), 1)
    start = (
        "cmean[t](x) in x - tanh(cmean[t](x)) cannot be lowered: primitive 'cmean' has no Triton expression"
    )
    assert caught.value.message.startswith(start)
    assert "backend='eager'" in (caught.value.hint or "")
    with pytest.raises(UsageError, match=r"^crms\[t\]\(x\) cannot be lowered: primitive 'crms'"):
        plans(LayerSpec("crms[t](x)", "btc"), (2, 3, 4), 1)


def test_a_gradient_that_cannot_be_lowered() -> None:
    define_primitive("unspelled", source="this test", gradient=lambda ops, g, y, a: (g,))(lambda xp, a: a)
    define_primitive(
        "only_forward", triton="{0}", source="this test", gradient=lambda ops, g, y, a: (ops.unspelled(g),)
    )(lambda xp, a: a)
    try:
        with pytest.raises(UsageError) as caught:
            plans(LayerSpec("x + only_forward(x)"), (2, 4, 2, 2), 1)
    finally:
        for name in ("unspelled", "only_forward"):
            primitives.registry.unregister(name)
    start = "the gradient of only_forward(x) in x + only_forward(x) cannot be lowered: primitive 'unspelled' has no"
    assert caught.value.message.startswith(start)


def test_an_axis_that_the_layout_lacks() -> None:
    with pytest.raises(FormulaError, match="'w'"):
        plans(LayerSpec("std[w,h](x)", "btc"), (2, 3, 4), 1)
    with pytest.raises(UsageError):
        dim_sizes("nhwc", (1, 2, 3, 4), 1)


def test_a_primitive_that_is_defined_anew_is_lowered_anew() -> None:
    def define(expression: str) -> None:
        define_primitive(
            "twice_or_thrice", triton=expression, source="this test", gradient=lambda ops, g, y, a: (g,)
        )(lambda xp, a: a)

    def source() -> str:
        launches = plans(LayerSpec("twice_or_thrice(x)"), (2, 4, 2, 2), 1).forward.launches
        return module_text("", launches, "fast")

    try:
        define("{0} * 2.5")
        assert "2.5" in source()
        primitives.registry._REGISTRY.pop("twice_or_thrice", None)
        define("{0} * 3.5")
        assert "3.5" in source()
    finally:
        primitives.registry._REGISTRY.pop("twice_or_thrice", None)
