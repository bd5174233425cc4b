"""A process that saves in a loop is killed at random moments: what is there is always one whole
state.
"""

import os
import random
import select
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import pertinax
from pertinax._store.leftovers import clean_leftovers
from pertinax._store.local import LocalStore

pytestmark = [pytest.mark.crash, pytest.mark.slow]

# Imports everything once, then forks a process for every line that it reads.
NURSERY = textwrap.dedent(
    """
    import os, signal, sys, numpy as np, jax, jax.numpy as jnp, pertinax

    def save_for_ever(path, mode):
        start = pertinax.load(path, arrays="numpy")["n"] if os.path.exists(path) else 0
        for i in range(start + 1, 1 << 30):
            tree = {"n": i, "text": str(i), "a": np.full(60_000, i)}
            tree |= {"b": jnp.full(9, i), "c": jnp.full(50_000, i)}
            if mode == "async":
                pertinax.save_async(path, tree, exists="replace").result()
            else:
                pertinax.save(path, tree, exists="replace")
            print(i, flush=True)

    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            save_for_ever(*line.split())
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print(-1, flush=True)
    """
)


def next_number(process, seconds=120):
    """The next line of the child; the test fails if there is none in time."""
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    assert ready, "the child says nothing"
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return int(line)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_killed_process_leaves_one_whole_state(tmp_path, mode):
    path = str(tmp_path / "c")
    rng = random.Random(7)
    last = 0
    nursery = subprocess.Popen(
        [sys.executable, "-u", "-c", NURSERY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    for _ in range(10):
        nursery.stdin.write(f"{path} {mode}\n".encode())
        pid = next_number(nursery)
        said = next_number(nursery)
        for _ in range(rng.randrange(4)):
            said = next_number(nursery)
        # Not by the clock: the child is somewhere in its next save. A few empty turns vary the
        # place.
        for _ in range(rng.randrange(400_000)):
            pass
        os.kill(pid, signal.SIGKILL)
        while (number := next_number(nursery)) != -1:
            said = number
        loaded = pertinax.load(path)
        number = loaded["n"]
        assert said <= number <= said + 1
        assert number >= last
        last = number
        assert loaded["text"] == str(number)
        for name in "abc":
            assert (np.asarray(loaded[name]) == number).all()
        assert pertinax.verify(path).ok
    nursery.stdin.close()
    assert nursery.wait(60) == 0
    nursery.stdout.close()
    nursery.stderr.close()
    clean_leftovers(LocalStore(), str(tmp_path))
    assert os.listdir(tmp_path) == ["c"]
