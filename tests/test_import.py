# SPDX-License-Identifier: Apache-2.0
"""`import pertinax` is light, and leaves the process as it found it; its names are public."""

import json
import subprocess
import sys
import types

HEAVY = ("tensorstore", "obstore", "msgpack", "google.protobuf", "rich", "orbax", "flax", "zarr")

# JAX is imported first: what it does to the process is not ours to answer for.
PROBE = """
import asyncio, json, logging, signal, sys, threading, warnings
import jax

def look():
    root = logging.getLogger()
    ours = {name for name in sys.modules if name.split(".")[0] == "pertinax"}
    return {
        "root handlers": [repr(handler) for handler in root.handlers],
        "root level": root.level,
        "last resort": repr(logging.lastResort),
        "logging disabled": logging.root.manager.disable,
        "signals": {int(s): repr(signal.getsignal(s)) for s in signal.valid_signals()},
        "event loop policy": repr(asyncio.events._event_loop_policy),
        "event loop": repr(asyncio.events._running_loop.__dict__),
        "loop functions": [repr(asyncio.run), repr(asyncio.BaseEventLoop.run_until_complete)],
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "warnings": [repr(entry) for entry in warnings.filters],
        "hooks": [repr(sys.excepthook), repr(threading.excepthook)],
        "jax config": repr(sorted(jax.config.values.items(), key=lambda item: item[0])),
        "backends": repr(jax._src.xla_bridge.backends_are_initialized()),
    }

before, modules = look(), set(sys.modules)
import MODULE
print(json.dumps([before, look(), sorted(set(sys.modules) - modules)]))
"""


def probe(module: str) -> tuple[dict[str, object], dict[str, object], list[str]]:
    """A fresh process before and after `import module`, and the modules that came with it."""
    command = [sys.executable, "-c", PROBE.replace("MODULE", module)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return tuple(json.loads(run.stdout))


def below(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_importing_the_front_door_brings_no_heavy_package_and_touches_nothing():
    before, after, modules = probe("pertinax")
    assert after == before
    assert [name for name in modules if below(name, HEAVY)] == []
    assert "pertinax" in modules


def test_importing_the_orbax_door_brings_no_orbax_and_touches_nothing():
    before, after, modules = probe("pertinax.checkpoint")
    assert after == before
    assert [name for name in modules if below(name, ("orbax", "obstore", "rich", "flax"))] == []


def test_the_probe_notices_a_bad_guest():
    before, after, modules = probe(
        "logging, rich, signal; logging.basicConfig(); signal.signal(15, print)"
    )
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"root handlers", "signals"}
    assert "rich" in modules


def test_public_names_exist_are_explained_and_know_their_public_home():
    import pertinax

    assert sorted(set(pertinax.__all__)) == sorted(pertinax.__all__)
    troubles: list[str] = []
    for name in pertinax.__all__:
        value = getattr(pertinax, name, None)
        if value is None:
            troubles.append(f"{name}: does not exist")
        elif isinstance(value, type | types.FunctionType | types.ModuleType):
            home = value.__name__ if isinstance(value, types.ModuleType) else value.__module__
            if not (value.__doc__ or "").strip():
                troubles.append(f"{name}: has no docstring")
            if home.startswith("pertinax.") and "._" in home:
                troubles.append(f"{name}: says it lives in {home}")
    assert not troubles, "\n".join(troubles)


def test_the_front_door_shows_no_name_it_does_not_offer():
    import pertinax

    visible = {
        name
        for name, value in vars(pertinax).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert visible <= set(pertinax.__all__)


def test_every_error_hangs_on_one_root_and_on_a_builtin():
    from pertinax import errors

    kinds = [
        v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, BaseException)
    ]
    assert errors.PertinaxError in kinds
    for kind in kinds:
        assert issubclass(kind, errors.PertinaxError), kind
        builtin = {base for base in kind.__mro__ if base.__module__ == "builtins"}
        assert builtin - {Exception, BaseException, object} or kind is errors.PertinaxError, kind
        assert kind.__name__ in (errors.__doc__ or ""), f"{kind.__name__} is not drawn in the tree"
