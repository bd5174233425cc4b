# SPDX-License-Identifier: Apache-2.0
"""What every test stands on: eight CPU devices, and hypothesis profiles.

Knows the environment that JAX reads once, before it is first used. Knows nothing of what is tested.
"""

import collections
import os
import sys
from collections.abc import Callable, Iterator

import pytest

DEVICES_FLAG = "--xla_force_host_platform_device_count"
if "jax" in sys.modules and DEVICES_FLAG not in os.environ.get("XLA_FLAGS", ""):
    raise pytest.UsageError("jax was imported before tests/conftest.py could give it eight devices")

# For this process and for those that tests start. JAX_PLATFORMS=cuda runs on an accelerator.
if DEVICES_FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES_FLAG}=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")

from hypothesis import HealthCheck, settings  # noqa: E402  (plugins of hypothesis may import jax)

SLOW_DISKS = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("dev", deadline=None, suppress_health_check=SLOW_DISKS)
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.register_profile("campaign", settings.get_profile("dev"), max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


@pytest.fixture
def campaign_size(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """Counts cases of a campaign, by its name; the sums stand at the end of pytest's report."""
    counts: collections.Counter[str] = collections.Counter()
    yield lambda name, count=1: counts.update({name: count})
    request.node.user_properties += [("campaign", list(one)) for one in counts.items()]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: collections.Counter[str] = collections.Counter()
    for report in (one for reports in terminalreporter.stats.values() for one in reports):
        if getattr(report, "when", "") == "teardown":  # fixtures have ended by then
            for kind, value in report.user_properties:
                counts.update({value[0]: value[1]} if kind == "campaign" else {})
    if counts:
        terminalreporter.section("cases of campaigns")
        for name, count in sorted(counts.items()):
            terminalreporter.line(f"{count:>9,}  {name}")
