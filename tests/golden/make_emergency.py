# SPDX-License-Identifier: Apache-2.0
"""Write what Orbax's emergency manager leaves in both tiers, with the Orbax that the interpreter has.

    python tests/golden/make_emergency.py            # writes tests/golden/emergency-<version>/

Four processes, two replicas; step 5 in the persistent tier, step 8 in local storage of the processes of the second
replica. What is there already is never written again. (Orbax 0.8.0 cannot do this on CPUs: it asks them for slices.)
"""

import os
import shutil
import socket
import sys
import traceback

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

SPECS = {"w": ((8, 6), "float32", ("data",)), "i": ((4, 3), "int32", ("data",)), "r": ((5,), "float32", ())}


def values(name, step):
    shape, dtype, _ = SPECS[name]
    return (np.arange(int(np.prod(shape))).reshape(shape) * 7 + step).astype(dtype)


def state_at(mesh, step):
    return {
        name: jax.make_array_from_callback(
            shape, NamedSharding(mesh, PartitionSpec(*spec)), lambda index, name=name: values(name, step)[index]
        )
        for name, (shape, _, spec) in SPECS.items()
    }


def work(folder, process):
    import orbax.checkpoint as ocp
    from orbax.checkpoint.experimental.emergency import checkpoint_manager as emergency

    ocp.multihost.initialize_runtime_to_distributed_ids()
    ocp.multihost.initialize_distributed_to_device_ids()
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("replica", "data"))
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state_at(mesh, 0))
    options = emergency.CheckpointManagerOptions(
        local=emergency.LocalCheckpointOptions(save_interval_steps=4, max_to_keep=1),
        persistent=emergency.PersistentCheckpointOptions(save_interval_steps=5, max_to_keep=1),
    )
    where = (f"{folder}/local/{process}", f"{folder}/persistent", mesh, abstract)
    with emergency.CheckpointManager(*where, options=options) as manager:
        for step in range(9):
            manager.save(step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(state_at(mesh, step))))
        manager.wait_until_finished()


def main(root):
    import orbax.checkpoint as ocp  # before the forks; the tests that read SPECS do without

    folder = os.path.join(os.path.abspath(root), f"emergency-{ocp.__version__}")
    if os.path.exists(folder):
        return
    for name in ("local/0", "local/1", "local/2", "local/3", "persistent"):
        os.makedirs(f"{folder}/{name}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    children = []
    for process in range(4):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                jax.config.update("jax_num_cpu_devices", 1)
                jax.distributed.initialize(address, num_processes=4, process_id=process)
                work(folder, process)
                jax.distributed.shutdown()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    if any(os.waitpid(child, 0)[1] for child in children):
        shutil.rmtree(folder)
        raise SystemExit("a process has failed")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__)))
