"""Measures layers on this machine's device against other ways of running them. Imports torch."""

from __future__ import annotations

import contextlib
import importlib.util
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from evonas.errors import EnvironmentUnusable, EvonasError, UsageError
from evonas.kernels.kernel_specs import DTYPES, ITEMSIZE, PASSES, layer_specs, limits_on
from evonas.kernels.lowering import plans
from evonas.kernels.offline import compile_spec
from evonas.kernels.programs import LayerSpec
from evonas.kernels.roofline import MACHINES, Machine, floor, pass_cost
from evonas.kernels.runtime import limits_for
from evonas.kernels.spec import TARGETS
from evonas.kernels.tiling import Limits
from evonas.kernels.timing import Clock, Step, Times, copy_bandwidth, time_steps
from evonas.kernels.traffic import traffic
from evonas.layers.layer import Layer
from evonas.layers.peers import LIBRARIES, installed, peers
from evonas.run.environment import package_versions

BACKENDS = ("triton", "eager", "compile", "c", *LIBRARIES)
#: Modes of torch.compile: on CUDA both, on the CPU the first.
COMPILE_MODES = ("default", "max-autotune-no-cudagraphs")
#: Largest difference from the eager reference, in units of its largest value, for a time to count.
AGREEMENT = {"bf16": 4e-2, "fp16": 1e-2, "fp32": 1e-3}
#: What floors are of where there is no GPU.
USUAL = ("sm_90", "H200")


@dataclass(frozen=True)
class Case:
    """One layer at one shape. layout, memory: as ``LayerSpec`` has them."""

    layer: Layer
    layout: str
    memory: str
    shape: tuple[int, ...]
    groups: int
    dtype: str

    @property
    def label(self) -> str:
        """Of the layer: its name, or its formula if it has none."""
        return self.layer.formula if self.layer.name == "layer" else self.layer.name

    @property
    def channels(self) -> int:
        return self.shape[1] if self.layout == "nchw" else self.shape[-1]

    @property
    def spec(self) -> LayerSpec:
        return LayerSpec(self.layer.formula, self.layout, self.memory)

    def tensor(self, device: torch.device, seed: int) -> Tensor:
        """Normal values from a seed, the same on every device."""
        x = torch.randn(self.shape, generator=torch.Generator().manual_seed(seed))
        made = x.to(device, getattr(torch, DTYPES[self.dtype]))
        return made.contiguous(memory_format=torch.channels_last) if self.memory == "channels_last" else made


def device_for(name: str | None) -> torch.device:
    """The device that is asked for, by default CUDA if there is one.

    Raises:
        UsageError: neither cpu nor cuda nor cuda:N. EnvironmentUnusable: a GPU that is not there.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None:
        name = "cuda" if found else "cpu"
    if name == "cpu":
        return torch.device(name)
    kind, _, number = name.partition(":")
    if kind != "cuda" or not (number.isdigit() or name == "cuda"):
        raise UsageError(f"unknown device {name!r}", hint="--device cpu, cuda or cuda:0")
    index = int(number) if number else torch.cuda.current_device() if found else 0
    if index >= found:
        raise EnvironmentUnusable(
            f"no device {name}: torch {torch.__version__} sees {found or 'no'} GPU{'s' if found > 1 else ''}",
            hint="leave --device out, or use --device cpu",
        )
    torch.cuda.set_device(index)  # events and Triton's launches go to the current one
    return torch.device("cuda", index)


def describe(device: torch.device) -> dict[str, Any]:
    """What measured: device, versions, threads."""
    versions = {"python": platform.python_version(), **{k: v for k, v in package_versions().items() if v}}
    kept = {k: v for k, v in versions.items() if k in ("python", "evonas", "torch", "triton")}
    if device.type == "cuda":
        name, threads = torch.cuda.get_device_name(device), None
    else:
        name, threads = _processor(), torch.get_num_threads()
    return {"device": device.type, "name": name, "threads": threads, "versions": kept}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def contenders(
    case: Case, device: torch.device, wanted: Sequence[str], left_out: Callable[[str, str], None]
) -> Iterator[tuple[str, nn.Module, str]]:
    """(label, module, note) of every backend that runs here; ``left_out`` gets the others with the reason."""
    options: dict[str, Any] = {"layout": case.layout, "groups": case.groups, "device": device}
    dtype = getattr(torch, DTYPES[case.dtype])
    others = {peer.library: peer for peer in peers(case.layer, case.layout)}

    def eager() -> nn.Module:
        return case.layer.module(case.channels, backend="eager", **options)

    for backend in wanted:
        if backend == "triton" and device.type != "cuda":
            left_out(backend, "kernels need a GPU")
        elif backend == "c" and (device.type != "cpu" or case.dtype != "fp32"):
            left_out(backend, "generated C is for float32 on the CPU")
        elif backend == "c" and importlib.util.find_spec("evonas.layers.c_layer") is None:
            left_out(backend, "not part of this installation")
        elif backend in LIBRARIES and backend not in others:
            left_out(backend, "has no such layer")
        elif backend in LIBRARIES and not installed(backend):
            left_out(backend, f"{LIBRARIES[backend]} is not installed")
        elif backend in LIBRARIES and case.memory not in others[backend].orders:
            left_out(backend, f"its layer does not take {case.memory} tensors")
        elif backend in LIBRARIES and backend != "torch" and device.type != "cuda":
            left_out(backend, "its kernels need a GPU")
        else:
            try:
                if backend == "compile":
                    for mode in COMPILE_MODES[: 2 if device.type == "cuda" else 1]:
                        label = "compile" if mode == "default" else "compile max"
                        compiled: Any = torch.compile(eager(), mode=mode, dynamic=False)
                        yield label, compiled, f"mode={mode}"
                elif backend == "c":
                    from evonas.layers.c_layer import CGraphLayer

                    yield backend, CGraphLayer(case.layer.graph, case.channels, **options), ""
                elif backend in LIBRARIES:
                    peer = others[backend]
                    module = peer.make(case.channels, case.groups).to(device=device, dtype=dtype)
                    yield backend, module, peer.note
                else:
                    yield backend, case.layer.module(case.channels, backend=backend, **options), ""
            except Exception as error:  # a library that does not import, a layer without kernels
                left_out(backend, _reason(error))


def measure(
    case: Case,
    clock: Clock,
    wanted: Sequence[str],
    *,
    rounds: int,
    copy: float,
    left_out: Callable[[str, str], None],
    tell: Callable[[str], None],
) -> list[dict[str, Any]]:
    """One row per backend and pass. ``copy``: bytes a second of a copy on the device."""
    device = clock.device
    x, dy = case.tensor(device, 0), case.tensor(device, 1)
    reference = case.layer.module(
        case.channels, backend="eager", layout=case.layout, groups=case.groups, device=device
    )(x).detach()
    steps: dict[str, Step] = {}
    notes: dict[str, str] = {}
    torch.compiler.reset()
    for label, module, note in contenders(case, device, wanted, left_out):
        tell(f"{case.label}, {'x'.join(map(str, case.shape))}: {label}")
        step = Step(module.train(), x, dy)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                y = step.forward()
                step.backward(y)
            off = _difference(y.detach(), reference)
        except Exception as error:  # one that cannot take this tensor must not end the comparison
            left_out(label, _reason(error))
            continue
        if not off <= AGREEMENT[case.dtype]:
            left_out(label, f"its output is off by {off:.1e} of the largest value")
            continue
        steps[label], notes[label] = step, note
    if not steps:
        return []
    times = time_steps(steps, clock, rounds)
    return [
        _row(case, label, notes[label], which, passes[which], times.get("eager"), copy, device)
        for which in (0, 1)
        for label, passes in times.items()
    ]


def _row(
    case: Case,
    label: str,
    note: str,
    which: int,
    time: Times,
    eager: tuple[Times, Times] | None,
    copy: float,
    device: torch.device,
) -> dict[str, Any]:
    """``which``: 0 forward, 1 backward."""
    # x is read and y is written; x and dy are read and dx is written
    least = (2, 3)[which] * prod(case.shape) * ITEMSIZE[case.dtype]
    return {
        "layer": case.layer.name,
        "formula": case.layer.formula,
        "layout": case.layout,
        "memory": case.memory,
        "dtype": case.dtype,
        "shape": case.shape,
        "groups": case.groups,
        "pass": PASSES[which],
        "backend": label,
        "note": note,
        "median_us": 1e6 * time.median,
        "iqr_us": 1e6 * (time.high - time.low),
        "rounds": time.rounds,
        "least_bytes": least,
        "planned_bytes": planned_bytes(case, device)[which] if label == "triton" else None,
        "share_of_copy": least / time.median / copy,
        "speedup_over_eager": eager[which].median / time.median if eager else None,
    }


def planned_bytes(case: Case, device: torch.device) -> tuple[int | None, int | None]:
    """Bytes that the generated kernels move, forward and backward; None for a layer without kernels."""
    try:
        both = plans(case.spec, case.shape, case.groups, _limits(device))
    except EvonasError:
        return None, None
    size = ITEMSIZE[case.dtype]
    return traffic(both.forward, size).unique, traffic(both.backward, size).unique


def _limits(device: torch.device) -> Limits:
    """Those of the kernels that the device runs; without a GPU, of the usual one."""
    return limits_for(device) if device.type == "cuda" else limits_on(USUAL[0])


def rooflines(case: Case, device: torch.device, copy: float) -> list[dict[str, Any]]:
    """Floors of both passes from compiled kernels: of this GPU, or without one of an H200 by its rates.

    Raises:
        UsageError, EnvironmentUnusable, CompileFailed: kernels that cannot be generated or compiled here.
    """
    target, machine, measured = _machine(device, copy)
    rows = []
    with TemporaryDirectory(prefix="evonas-bench-") as name:
        folder = Path(name)
        for one in layer_specs(
            case.spec,
            case.shape,
            case.groups,
            dtype=case.dtype,
            target=target,
            folder=folder,
            limits=_limits(device),
        ):
            reports = [compile_spec(s, target, cache_dir=folder / "cache") for s in one.specs]
            cost = pass_cost(one.plan, reports)
            least = floor(one.plan, ITEMSIZE[case.dtype], cost, machine)
            rows.append(
                {
                    "layer": case.layer.name,
                    "formula": case.layer.formula,
                    "shape": case.shape,
                    "dtype": case.dtype,
                    "pass": one.which,
                    "machine": machine.name,
                    "target": target,
                    "copy_measured_here": measured,
                    "floor_us": 1e6 * least.seconds,
                    "limit": least.limit,
                    "bandwidth_us": 1e6 * least.bandwidth,
                    "issue_us": 1e6 * least.issue,
                    "special_us": 1e6 * least.special,
                    **asdict(cost),
                }
            )
    return rows


def _machine(device: torch.device, copy: float) -> tuple[str, Machine, bool]:
    if device.type != "cuda":
        return USUAL[0], MACHINES[USUAL[1]], False
    properties: Any = torch.cuda.get_device_properties(device)
    if torch.version.hip is not None:
        raise EnvironmentUnusable(
            "floors are known for NVIDIA GPUs only",
            hint="leave --roofline out; `evonas kernel` counts for AMD",
        )
    target = f"sm_{properties.major}{properties.minor}"
    if target not in TARGETS:
        raise EnvironmentUnusable(
            f"{properties.name} is {target}, kernels are compiled for {', '.join(TARGETS)}",
            hint="leave --roofline out",
        )
    clock = 1e3 * float(getattr(properties, "clock_rate", 0) or 1_755_000)
    return target, Machine(str(properties.name), copy, clock, int(properties.multi_processor_count)), True


def start(device: torch.device) -> tuple[Clock, float]:
    """A clock, and the bandwidth of a copy on the device."""
    clock = Clock(device)
    return clock, copy_bandwidth(clock)


def _difference(y: Tensor, reference: Tensor) -> float:
    wide = reference.double()
    return float((y.double() - wide).abs().max() / wide.abs().max().clamp_min(1e-12))


def _reason(error: BaseException) -> str:
    text = error.message if isinstance(error, EvonasError) else f"{type(error).__name__}: {error}"
    line = (text.strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 200 else f"{line[:200]}..."
