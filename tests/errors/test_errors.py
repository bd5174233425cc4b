# SPDX-License-Identifier: Apache-2.0
"""The tree of errors: each is ours and the builtin that people already catch; each survives
pickling.
"""

import inspect
import pickle

import pytest

import pertinax
from pertinax import errors

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)]
BUILTINS = {
    "CheckpointExists": FileExistsError,
    "WriterConflict": FileExistsError,
    "CheckpointNotFound": FileNotFoundError,
    "NotACheckpoint": ValueError,
    "UnfinishedCheckpoint": ValueError,
    "NewerFormat": ValueError,
    "CorruptCheckpoint": ValueError,
    "NoUsableStep": ValueError,
    "PartAbsent": LookupError,
    "RestoreMismatch": ValueError,
    "UnsupportedLeaf": TypeError,
    "InvalidOption": ValueError,
    "SnapshotChanged": RuntimeError,
    "StorageError": OSError,
    "StorageFull": OSError,
    "StorageStalled": TimeoutError,
}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda c: c.__name__)
def test_every_error_hangs_on_the_one_root_and_is_drawn_in_the_tree(kind):
    assert issubclass(kind, errors.PertinaxError)
    assert kind.__name__ in errors.__doc__
    assert kind.__doc__
    if kind.__name__ in BUILTINS:
        assert issubclass(kind, BUILTINS[kind.__name__])
        assert f"({BUILTINS[kind.__name__].__name__})" in errors.__doc__


# These are made of facts, and write their text themselves.
OF_FACTS = (
    *(errors.CorruptCheckpoint, errors.NoUsableStep, errors.PartAbsent),
    *(errors.PeerFailed, errors.RestoreMismatch),
)


def examples():
    corrupt = errors.CorruptCheckpoint("bad", file="d/x", leaf="a/b", start=3, stop=9)
    misfit = errors.Misfit("a", "f32[3]", "f32[4]", "pad it")
    return [
        corrupt,
        errors.RestoreMismatch("/c", [misfit], 7),
        errors.PeerFailed(
            "boom", process=3, phase="write", operation="save 1", type_name="OSError"
        ),
        errors.PartAbsent("/c", "w", start=(0, 4), stop=(2, 8), held=[((0, 0), (2, 4))]),
        errors.NoUsableStep("/c", [errors.PassedOver(4, "/c/4", corrupt)]),
        errors.StorageFull(28, "no room", "/c"),
        errors.CheckpointNotFound(2, "nothing", "/c"),
        *(kind("text") for kind in CLASSES if kind not in OF_FACTS),
    ]


@pytest.mark.parametrize("error", examples(), ids=lambda e: type(e).__name__)
def test_every_error_survives_pickling(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_what_is_kept_elsewhere_is_named_with_what_is_here():
    held = [((0, n), (2, n + 1)) for n in range(9)]
    text = str(errors.PartAbsent("/c", "w", start=(0, 9), stop=(2, 10), held=held))
    assert "leaf 'w'" in text
    assert "[0:2, 0:1]" in text
    assert "and 1 more, not [0:2, 9:10]" in text
    assert "it has nothing" in str(errors.PartAbsent("/c", "w", start=(), stop=(), held=()))


def test_a_mismatch_shows_both_sides_and_the_way_out():
    text = str(errors.RestoreMismatch("/c", [errors.Misfit("a", "f32[3]", "f32[4]", "pad it")], 7))
    assert text.splitlines() == [
        "1 of 7 leaves do not fit the checkpoint at /c",
        "  a  stored f32[3]  target f32[4]  -> pad it",
    ]


def test_the_front_door_shows_the_errors():
    assert pertinax.errors is errors
