"""Settings of every test: hypothesis draws the same examples each time, without a deadline."""

import sys
from importlib.machinery import PathFinder

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "evonas",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("evonas")


class _Others:
    """The finder of installed packages, for all but triton."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] == "triton" else PathFinder.find_spec(name, path, target)

    @staticmethod
    def find_distributions(context):
        return () if context.name == "triton" else PathFinder.find_distributions(context)


@pytest.fixture
def without_triton(monkeypatch):
    """This process as it is where triton is not installed."""
    others = [_Others if finder is PathFinder else finder for finder in sys.meta_path]
    monkeypatch.setattr(sys, "meta_path", others)
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    layer = sys.modules.get("evonas.layers.layer")  # which asks once and remembers
    if layer is not None:
        layer._triton_installed.cache_clear()
    yield
    if "evonas.layers.layer" in sys.modules:
        sys.modules["evonas.layers.layer"]._triton_installed.cache_clear()
