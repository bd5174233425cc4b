"""The PyTree handler and the one within it that does the work."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pertinax import checkpoint as ocp
from tests.checkpoint.data.twins import same

TREE = {"w": np.arange(3), "n": [1, {}]}


class Recording(ocp.BasePyTreeCheckpointHandler):
    """Notes what is asked of it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.calls: list[str] = []

    async def async_save(self, directory: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls.append("async_save")
        return await super().async_save(directory, *args, **kwargs)

    def finalize(self, directory: Any) -> None:
        self.calls.append("finalize")
        super().finalize(directory)

    def metadata(self, directory: Any) -> Any:
        self.calls.append("metadata")
        return super().metadata(directory)

    def close(self) -> None:
        self.calls.append("close")
        super().close()


@pytest.mark.row("R208", "R219")
def test_a_program_may_give_the_handler_that_does_the_work(tmp_path: Path):
    inner = Recording(use_ocdbt=False)
    handler = ocp.PyTreeCheckpointHandler(handler_impl=inner)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(tmp_path / "it", args=ocp.args.PyTreeSave(TREE))
        same(checkpointer.restore(tmp_path / "it"), TREE)
        assert checkpointer.metadata(tmp_path / "it")["w"].shape == (3,)
    assert inner.calls == ["async_save", "finalize", "metadata", "close"]
    assert not (tmp_path / "it" / "manifest.ocdbt").exists()  # its settings count


@pytest.mark.row("R219")
def test_one_handler_is_no_kind_of_the_other():
    assert not issubclass(ocp.PyTreeCheckpointHandler, ocp.BasePyTreeCheckpointHandler)
    assert not issubclass(ocp.BasePyTreeCheckpointHandler, ocp.PyTreeCheckpointHandler)


@pytest.mark.row("R205")
@pytest.mark.parametrize("use_ocdbt", [True, False])
@pytest.mark.parametrize("use_zarr3", [True, False])
def test_arrays_of_numpy_and_of_jax_are_stored_with_the_same_specs(
    use_ocdbt: bool, use_zarr3: bool, tmp_path: Path
):
    def files(value: Any, name: str) -> dict[str, bytes]:
        checkpointer = ocp.PyTreeCheckpointer(use_ocdbt=use_ocdbt, use_zarr3=use_zarr3)
        checkpointer.save(tmp_path / name, {"x": value})
        return stored_keys(tmp_path / name)

    value = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    one, other = files(value, "numpy"), files(jax.numpy.asarray(value), "jax")
    assert len(one) == 2
    assert one == other


def stored_keys(item: Path) -> dict[str, bytes]:
    """Metadata and chunk of the array `x`, as TensorStore finds them."""
    import tensorstore as ts

    store: Any = {"driver": "file", "path": f"{item}/"}
    if (item / "manifest.ocdbt").exists():
        store = {"driver": "ocdbt", "base": store}
    found = ts.KvStore.open(store).result()
    keys = [key for key in found.list().result() if key.startswith(b"x/")]
    return {key.decode(): found.read(key).result().value for key in keys}
