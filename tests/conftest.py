"""Settings of every test: hypothesis draws the same examples each time, without a deadline."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "evonas",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("evonas")
