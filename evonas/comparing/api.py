"""``evonas.compare``: the fair bench from Python, the same one as the command line's."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from evonas.comparing.bench import Bench, Listener
from evonas.comparing.comparison import Comparison
from evonas.comparing.contestants import Spec
from evonas.comparing.preparing import prepare
from evonas.comparing.record import check_writable, write_record
from evonas.comparing.training import Training


def compare(
    *layers: Spec,
    proxies: Sequence[str] | None = None,
    scale: str | None = None,
    data: str | None = None,
    seeds: int | None = None,
    budget: float | None = None,
    lr_factors: Sequence[float] | None = None,
    data_shares: Sequence[float] | None = None,
    workers: int = 1,
    seed: int = 0,
    reference: str | None = None,
    settings: Mapping[str, Any] | None = None,
    plugins: Sequence[str | os.PathLike[str]] = (),
    runs: str | os.PathLike[str] = "runs",
    out: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    listener: Listener | None = None,
) -> Comparison:
    """Train layers alike, with paired seeds, and return what came out.

    Args:
        layers: at least two: zoo names, pairs of them (``rms_norm+silu``), formulas, texts of assemblies, files,
            ``RUN:ID`` or ``RUN:best``, pairs (run, id), or layers.
        proxies, scale, data: networks to train on, their scale and data set; see ``evonas list proxies``.
        seeds: trainings per layer (default 3); number i has the same initial weights, order of the data and crops for
            every layer.
        budget: multiplies the training steps (default 1.5).
        lr_factors: factors on the learning rate; each layer gets the best one on every proxy, by validation data.
            Empty for no sweep; by default 0.5, 1, 2.
        data_shares: shares of the training data on which every training is repeated.
        workers: evaluation slots.
        seed: of everything. With that of a run, its networks, budget and sweep, the run's final trainings come again.
        reference: the layer that the others are compared with, as it is given; by default the first one.
        settings: any other setting by dotted key, e.g. {"evaluation.device": "cuda"}.
        plugins: Python files to load first.
        runs: folder in which runs are looked for by name.
        out: a JSON file that is rewritten after every training.
        resume: such a file: trainings in it are not repeated. Without layers, its own are meant.
        listener: called after every training with it and the comparison so far.

    Raises:
        UsageError, FormulaError, DataError, PluginError: what does not exist or does not fit, naming the proxy.
        EnvironmentUnusable: slots, device, disk.
    """
    flags: dict[str, Any] = {
        "evaluation.proxies": None if proxies is None else list(proxies),
        "evaluation.scale": scale,
        "evaluation.data": data,
        "rerank.seeds": seeds,
        "rerank.budget": budget,
        "rerank.lr_factors": None if lr_factors is None else list(lr_factors),
        "rerank.data_shares": None if data_shares is None else list(data_shares),
        "workers.count": workers,
        "search.seed": seed if resume is None or seed else None,
        **dict(settings or {}),
    }
    made = prepare(layers, reference=reference, flags=flags, plugins=plugins, root=runs, resume=resume)
    return execute(made, out=out if out is not None else resume, listener=listener)


def execute(
    comparison: Comparison,
    *,
    out: str | os.PathLike[str] | None = None,
    listener: Listener | None = None,
) -> Comparison:
    """Train what is missing; the file ``out`` has the present state after every training.

    Raises:
        EnvironmentUnusable: slots cannot be started, the file cannot be written. KeyboardInterrupt: as it came.
    """
    if out is not None:
        check_writable(out)

    def heard(training: Training, now: Comparison) -> None:
        if out is not None:
            write_record(out, now)
        if listener is not None:
            listener(training, now)

    done = Bench(comparison, heard).run()
    if out is not None:
        write_record(out, done)
    return done
