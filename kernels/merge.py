"""The small kernel that merges partial statistics, always in the same order."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from evonas.kernels.emit import KernelText


def merge_kernel(ops: Sequence[str]) -> KernelText:
    """Merge ``partial`` [splits, slots, instances] into one buffer per slot.

    ops: "mean" or "var" per slot; a variance's slot holds sums of squared deviations and follows that of its mean
    (Chan, Golub and LeVeque 1983). Numbers: length and share are positions of the split axis in all and per
    split; the last share may be shorter. Means are merged as differences from the first one, which loses no digits
    when they are far from zero and close together.
    """
    name = "_".join(["merge", *ops])
    pointers = ("partial", *[f"out{n}" for n in range(len(ops))])
    numbers: tuple[str, ...] = ("instances", "inverse_length", "length", "share", "splits")
    lines = [
        "i = tl.program_id(0) * BLOCK_I + tl.arange(0, BLOCK_I)[None, :]",
        "s = tl.arange(0, BLOCK_S)[:, None]",
        "inside = (s < splits) & (i < instances)",
        "weight = tl.where(s < splits, tl.minimum(length - s * share, share) * inverse_length, 0.0)",
    ]
    for n, op in enumerate(ops):
        row = f"(s * {len(ops)} + {n})" if n else f"s * {len(ops)}"
        lines.append(f"part{n} = tl.load(partial_ptr + {row} * instances + i, mask=inside, other=0.0)")
        if op == "mean":
            lines += [
                f"shift{n} = tl.load(partial_ptr + {n} * instances + i, mask=i < instances, other=0.0)",
                f"value{n} = shift{n} + tl.sum((part{n} - shift{n}) * weight, axis=0, keep_dims=True)",
            ]
        else:
            lines += [
                f"away{n} = part{n - 1} - value{n - 1}",
                f"spread{n} = tl.sum(weight * away{n} * away{n}, axis=0, keep_dims=True)",
                f"value{n} = spread{n} + tl.sum(part{n}, axis=0, keep_dims=True) * inverse_count",
            ]
        lines.append(f"tl.store(out{n}_ptr + i, value{n}, mask=i < instances)")
    if "var" in ops:
        numbers = (*numbers, "inverse_count")
    arguments = (
        [f"{p}_ptr" for p in pointers] + list(numbers) + ["BLOCK_S: tl.constexpr", "BLOCK_I: tl.constexpr"]
    )
    listed = textwrap.fill(", ".join(arguments), 100, initial_indent="    ", subsequent_indent="    ")
    about = "Partial statistics of all splits, merged in a fixed order."
    writes = {f"out{n}": 1 for n in range(len(ops))}
    text = f'@triton.jit\ndef {name}(\n{listed},\n):\n    """{about}"""\n    ' + "\n    ".join(lines) + "\n"
    return KernelText(
        name,
        text,
        pointers,
        numbers,
        ("BLOCK_S", "BLOCK_I"),
        frozenset(),
        reads={"partial": 1},
        writes=writes,
    )
