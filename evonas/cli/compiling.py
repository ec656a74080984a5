"""The verbs about kernels: `kernel` and `bench`."""

from __future__ import annotations

from typing import Annotated

import typer

from evonas.cli.options import Json, Plugin, Runs

Dtype = Annotated[str | None, typer.Option(metavar="NAME", help="bf16, fp16 or fp32.")]
Order = Annotated[
    str | None, typer.Option(metavar="NAME", help="nchw, channels_last or btc. [default: the layer's]")
]
Groups = Annotated[int, typer.Option(metavar="N", min=1, help="Of index sets with c/g.")]


def kernel(
    layer: Annotated[
        str,
        typer.Argument(metavar="LAYER", help="A name, a formula, a file; or a run, with the id behind it."),
    ],
    candidate: Annotated[
        str | None, typer.Argument(metavar="[ID]", help='A candidate of the run, or "best".')
    ] = None,
    forward: Annotated[bool, typer.Option("--forward", help="The forward pass.")] = False,
    backward: Annotated[bool, typer.Option("--backward", help="The backward pass.")] = False,
    layout: Order = None,
    dtype: Dtype = "bf16",
    shape: Annotated[
        str | None,
        typer.Option(metavar="B,C,H,W", help="Of x. [default: 128,256,32,32; tokens 16,1024,4096]"),
    ] = None,
    groups: Groups = 32,
    residual: Annotated[bool, typer.Option("--residual", help="Add a second tensor to x first.")] = False,
    evaluation: Annotated[bool, typer.Option("--eval", help="With running statistics.")] = False,
    compile_for: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Compile for sm_80, sm_90, sm_100, gfx90a, gfx942: a table instead."
        ),
    ] = None,
    plugin: Plugin = None,
    runs: Runs = "runs",
    json: Json = False,
) -> int:
    """The Triton kernels of a layer, as source; or compiled without the device: registers, spills, instructions."""
    from evonas.cli.kernel import kernel as print_kernel

    return print_kernel(
        layer,
        candidate,
        forward=forward,
        backward=backward,
        layout=layout,
        dtype=dtype or "bf16",
        shape=shape,
        groups=groups,
        residual=residual,
        evaluation=evaluation,
        compile_for=compile_for,
        plugins=plugin or (),
        runs=runs,
        json=json,
    )


def bench(
    layers: Annotated[list[str], typer.Argument(metavar="LAYER...", help="Names, formulas or files.")],
    shapes: Annotated[
        str | None,
        typer.Option(metavar="B,C,H,W;...", help="Of x. [default: large on a GPU, small on a CPU]"),
    ] = None,
    dtype: Dtype = None,
    layout: Order = None,
    groups: Groups = 32,
    backends: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Of triton, eager, compile, c, torch, liger, fla, apex."),
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda or cuda:0.")] = None,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, help="Interleaved measurements.")] = 20,
    roofline: Annotated[bool, typer.Option("--roofline", help="Floors from compiled instructions.")] = False,
    plot: Annotated[
        str | None, typer.Option(metavar="FILE", help="Picture of time over floor, .svg.")
    ] = None,
    plugin: Plugin = None,
    json: Json = False,
) -> int:
    """Forward and backward times of layers on this machine, against eager, torch.compile and other libraries."""
    from evonas.cli.bench import bench as run_bench

    return run_bench(
        layers,
        shapes=shapes,
        dtype=dtype,
        layout=layout,
        groups=groups,
        backends=backends,
        device=device,
        rounds=rounds,
        roofline=roofline,
        plot=plot,
        plugins=plugin or (),
        json=json,
    )
