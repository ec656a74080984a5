"""What a machine needs for a search, checked one thing at a time; no check stops the others."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evonas.errors import EvonasError

GIB = 2**30
#: Network and other file systems on which a lock or an fsync may not hold.
_DOUBTFUL = ("nfs", "cifs", "smb", "9p", "fuse", "lustre", "beegfs", "afs", "gpfs")
_NEEDED = ("torch", "numpy", "networkx", "optuna", "pyarrow", "moocore", "typer", "rich", "psutil")


@dataclass(frozen=True, slots=True)
class Finding:
    """level: ok, warn or fail. found: what there is. fix: what to do about it."""

    name: str
    level: str
    found: str
    fix: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def examine(out: str, *, start_ray: bool = False, plugins: Sequence[str] = ()) -> Iterator[Finding]:
    """Every check in order, each as it is done. ``out``: the folder for runs, which is not created."""
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("python", _python),
        ("packages", _packages),
        ("torch", _torch),
        ("gpu", _gpu),
        ("processors", _processors),
        ("memory", _memory),
        ("shm", _shm),
        ("runs", lambda: _runs(Path(out))),
        ("disk", lambda: _disk(Path(out))),
        ("data", _data),
        ("layer", _layer),
        ("ray", lambda: _ray(start_ray)),
        ("plug-ins", lambda: _plugins(plugins)),
    ]
    for name, check in checks:
        try:
            yield check()
        except EvonasError as error:
            yield Finding(name, "fail", error.message, error.hint)
        except Exception as error:  # a broken package can raise anything
            yield Finding(name, "fail", f"{type(error).__name__}: {error}"[:300], "install evonas again")


def _python() -> Finding:
    version = platform.python_version()
    where = f"{version} on {platform.system()} {platform.machine()}"
    if not ((3, 10) <= sys.version_info[:2] <= (3, 13)):
        return Finding("python", "warn", where, "evonas is tested with Python 3.10 to 3.13")
    if platform.system() != "Linux":
        return Finding("python", "fail", where, "evonas runs on Linux: its slots need fork and prctl")
    return Finding("python", "ok", where)


def _packages() -> Finding:
    from evonas.run.environment import package_versions

    versions = package_versions()
    missing = [name for name in _NEEDED if versions.get(name) is None]
    words = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    if missing:
        return Finding(
            "packages", "fail", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}"
        )
    if versions.get("triton") is None:
        return Finding("packages", "warn", words, "pip install triton, for kernels on a GPU; not needed here")
    return Finding("packages", "ok", words)


def _torch() -> Finding:
    import torch

    threads, build = torch.get_num_threads(), torch.version.cuda
    words = (
        f"{torch.__version__}, {'CUDA ' + build if build else 'built for the CPU'}, {threads} threads here"
    )
    return Finding("torch", "ok", words)


def _gpu() -> Finding:
    import torch

    from evonas.run.environment import gpus

    cards = gpus()
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("gpu", "ok", ", ".join(names))
    if cards:
        return Finding(
            "gpu",
            "warn",
            f"{cards[0]['name']} is there, torch {torch.__version__} cannot use it",
            "install a torch that was built for the driver: https://pytorch.org/get-started",
        )
    return Finding("gpu", "ok", "none; the scale tiny is made for processors")


def _processors() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    words = (
        f"{usable} usable of {os.cpu_count()}, OMP_NUM_THREADS {threads}; every slot computes on one thread"
    )
    quota = _cpu_quota()
    if quota is not None and quota < usable:
        return Finding(
            "processors",
            "warn",
            f"{words}; the control group allows {quota:.1f}",
            f"--workers {max(1, int(quota))} is as fast as more",
        )
    return Finding("processors", "ok", words)


def _cpu_quota() -> float | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _memory() -> Finding:
    import psutil

    from evonas.run.backends.limits import available_memory

    free, total = available_memory(), psutil.virtual_memory().total
    words = f"{free / GIB:.1f} GiB available of {total / GIB:.1f}"
    if free < 2 * GIB:
        return Finding("memory", "warn", words, "close something, or use --workers 1")
    return Finding("memory", "ok", words)


def _shm() -> Finding:
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError:
        return Finding("shm", "warn", "no /dev/shm", "mount it: Ray keeps its object store there")
    words = f"{usage.free / GIB:.1f} GiB free of {usage.total / GIB:.1f} in /dev/shm"
    if usage.free < GIB // 4:
        return Finding("shm", "warn", words, "docker run --shm-size=1g; matters for --backend ray alone")
    return Finding("shm", "ok", words)


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _runs(out: Path) -> Finding:
    place = _existing(out)
    fix = "choose another folder with --out, or give this user the right to write there"
    if not place.is_dir():
        return Finding("runs", "fail", f"{place} is a file, so {out} cannot be made", fix)
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".evonas-doctor-") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding("runs", "fail", f"{place} cannot be written: {error.strerror or error}", fix)
    kind = _file_system(place)
    words = f"{out} can be written" + (f", file system {kind}" if kind else "")
    if kind and kind.startswith(_DOUBTFUL):
        return Finding(
            "runs", "warn", words, "a local disk is safer: locks and fsync may not hold over a network"
        )
    return Finding("runs", "ok", words)


def _file_system(place: Path) -> str | None:
    import psutil

    mounts = [p for p in psutil.disk_partitions(all=True) if place.is_relative_to(p.mountpoint)]
    return max(mounts, key=lambda p: len(p.mountpoint)).fstype if mounts else None


def _disk(out: Path) -> Finding:
    usage = shutil.disk_usage(_existing(out))
    words = f"{usage.free / GIB:.1f} GiB free; a run writes at most about 1 KB per event"
    if usage.free < 100 * 2**20:
        return Finding("disk", "fail", words, "free some space, or choose another folder with --out")
    return Finding("disk", "warn" if usage.free < GIB else "ok", words)


def _data() -> Finding:
    from evonas import data

    loaded = data.load()  # compares the digests of the shipped files
    parts = f"{len(loaded.train)} + {len(loaded.validation)} + {len(loaded.heldout)} images"
    return Finding("data", "ok", f"{loaded.name}: {parts}, digests match")


def _layer() -> Finding:
    import torch

    from evonas.layers.layer import named_layer

    layer = named_layer("evonorm_s0")
    made = layer.module(32).double()
    x = torch.linspace(-2, 2, 2 * 32 * 4 * 4, dtype=torch.float64).reshape(2, 32, 4, 4).requires_grad_()
    y = made(x)
    grouped = x.detach().reshape(2, 32, 1, 4, 4)
    std = (grouped.var(dim=(2, 3, 4), unbiased=False, keepdim=True) + 1e-5).sqrt()
    expected = (grouped * grouped.sigmoid() / std).reshape(x.shape)
    y.square().sum().backward()
    error = float((y.detach() - expected).abs().max())
    finite = x.grad is not None and bool(torch.isfinite(x.grad).all())
    if error > 1e-9 or not finite:
        words = f"evonorm_s0 is off its closed form by {error:.1e}, finite gradient: {finite}"
        return Finding("layer", "fail", words, "install torch again; if that does not help, report it")
    return Finding(
        "layer", "ok", f"evonorm_s0 forward within {error:.0e} of its closed form, gradient finite"
    )


def _ray(start: bool) -> Finding:
    from importlib import metadata, util

    if util.find_spec("ray") is None:
        return Finding(
            "ray", "warn", "not installed", "pip install ray, for more slots than processors or clusters"
        )
    version = metadata.version("ray")
    if not start:
        return Finding("ray", "ok", f"{version}, not started (--ray starts it)")
    import ray

    own = not ray.is_initialized()
    if own:
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        nodes = ray.nodes()
        answer = ray.get(ray.remote(num_cpus=0)(_seven).remote(), timeout=60)
    finally:
        if own:
            ray.shutdown()
    if answer != 7:
        return Finding(
            "ray", "fail", f"{version}: a function answered {answer}", "pip install --force-reinstall ray"
        )
    return Finding("ray", "ok", f"{version}, {len(nodes)} node, a function was called")


def _seven() -> int:
    return 7


def _plugins(files: Sequence[str]) -> Finding:
    from evonas.plugins import GROUPS, broken_plugins, describe_plugins, load_entry_points, load_plugins

    load_plugins(describe_plugins(files))
    loaded = sum(len(load_entry_points(group)) for group in GROUPS)
    broken = broken_plugins()
    words = f"{len(files)} files and {loaded} entry points loaded"
    if broken:
        names = "; ".join(f"{b.group}:{b.name} of {b.distribution}: {b.reason}" for b in broken)
        return Finding("plug-ins", "warn", f"{words}, broken: {names}", "see evonas list plugins")
    return Finding("plug-ins", "ok", words)
