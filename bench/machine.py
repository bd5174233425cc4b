# SPDX-License-Identifier: Apache-2.0
"""The machine on which numbers were taken.

Knows where Linux tells about itself. Knows nothing of what is measured.
"""

import importlib.metadata
import os
import platform

_PACKAGES = ("jax", "jaxlib", "numpy", "orbax-checkpoint", "tensorstore", "safetensors", "crc32c")


def describe_machine(directory: str) -> dict[str, str]:
    """What a reader needs to know to judge the numbers."""
    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "CPU": f"{_cpu()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "disk": _disk(directory),
        "Python": platform.python_version(),
        "packages": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "load before": load(),
    }


def load() -> str:
    """Processes that wanted a core, averaged over 1, 5 and 15 minutes; below 0.5 is quiet."""
    return " ".join(f"{average:.2f}" for average in os.getloadavg())


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
        return names[0] if names else platform.machine()
    except OSError:
        return platform.processor() or platform.machine()


def _disk(directory: str) -> str:
    """File system and device of the longest mount point above `directory`."""
    real = os.path.realpath(directory)
    best = ("", "unknown", "unknown")
    try:
        with open("/proc/mounts") as lines:
            for line in lines:
                device, place, kind = line.split()[:3]
                inside = real == place or real.startswith(place.rstrip("/") + "/")
                if inside and len(place) >= len(best[0]):
                    best = (place, kind, device)
    except OSError:
        return "unknown"
    return f"{best[1]} on {best[2]}"
