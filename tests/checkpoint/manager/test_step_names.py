# SPDX-License-Identifier: Apache-2.0
"""Names of steps: how they are made, found, and told from what only looks like them."""

import datetime as dt
import importlib
import os
import pathlib

import pytest
from etils import epath

from tests.checkpoint.manager.sides import BOTH, names


@pytest.fixture(params=BOTH)
def step(request):
    return importlib.import_module(request.param).path.step


@pytest.fixture
def ours():
    return importlib.import_module("pertinax.checkpoint.path.step")


@pytest.fixture
def base(tmp_path: pathlib.Path):
    return epath.Path(tmp_path)


def plain(step, prefix, length):
    return step.standard_name_format(step_prefix=prefix, step_format_fixed_length=length)


def make(base, *directories):
    for name in directories:
        (base / name).mkdir()


@pytest.mark.row("R168")
@pytest.mark.parametrize(
    ("prefix", "length", "name"),
    [
        (None, None, "23"),
        (None, 4, "0023"),
        ("step", None, "step_23"),
        ("step", 4, "step_0023"),
        (None, 1, "23"),
    ],
)
def test_names_are_built(step, prefix, length, name):
    assert plain(step, prefix, length).build_name(23) == name


@pytest.mark.row("R169")
@pytest.mark.parametrize(
    ("length", "found"), [(None, ["0", "1", "10", "100"]), (2, ["00", "01", "10", "100"])]
)
def test_padding_decides_what_is_found(step, base, length, found):
    make(base, "0", "00", "1", "01", "10", "100", "a", "1.orbax-checkpoint-tmp-3", "x_1")
    (base / "7").write_text("a file")
    all_found = list(plain(step, None, length).find_all(base))
    assert sorted(one.path.name for one in all_found) == found
    assert sorted(one.step for one in all_found) == [0, 1, 10, 100]


@pytest.mark.wd("W-22")
def test_a_prefix_is_no_pattern(ours, base):
    make(base, "a.b_1", "axb_2", "a.b_c_3")
    found = ours.standard_name_format("a.b").find_all(base)
    assert [one.step for one in found] == [1]


def test_formats_are_values(ours):
    assert ours.standard_name_format("a", 3) == ours.standard_name_format("a", 3)
    assert ours.standard_name_format("a", 3) != ours.standard_name_format("a")
    assert "'a'" in str(ours.standard_name_format("a", 3))
    assert isinstance(ours.standard_name_format(), ours.NameFormat)


@pytest.mark.row("R169", "R193", "R206")
def test_one_step_is_found_or_the_error_tells_where_it_was_sought(step, base):
    make(base, "run_05")
    found = plain(step, "run", 2).find_step(base, 5)
    assert (found.step, found.path) == (5, base / "run_05")
    make(base, "run_06.orbax-checkpoint-tmp-1")  # of an unfinished save: no step
    with pytest.raises(ValueError, match=r"run_06"):
        plain(step, "run", 2).find_step(base, 6)


@pytest.mark.row("R191")
def test_several_formats_are_read_and_one_is_written(step, base):
    old, new = step.standard_name_format(), plain(step, "s", 3)
    both = step.composite_name_format(new, [new, old])
    make(base, "1", "2", "s_002", "s_003")
    assert both.build_name(7) == "s_007"
    assert both.find_step(base, 2).path.name == "s_002"
    assert both.find_step(base, 1).path.name == "1"
    assert sorted(one.path.name for one in both.find_all(base)) == ["1", "2", "s_002", "s_003"]
    with pytest.raises(ValueError, match=r"s_009(.|\n)*9"):
        both.find_step(base, 9)
    with pytest.raises(ValueError, match="read_name_formats"):
        step.composite_name_format(new, [old])


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("0000", 0),
        ("42", 42),
        ("checkpoint_003400", 3400),
        ("foobar_000505.orbax-checkpoint-tmp-13124", 505),
        ("7.orbax-checkpoint-tmp-1", 7),
    ],
)
def test_numbers_are_read_from_names(ours, name, number):
    assert ours.step_from_checkpoint_name(name) == number


@pytest.mark.parametrize(
    "name",
    [
        *("abc", "checkpoint_", "checkpoint_1010_", "_191", "a_b_3", ""),
        *(".orbax-checkpoint-tmp-1", "0.orbax-checkpoint-tmp-"),
    ],
)
def test_other_names_have_no_number(ours, name):
    with pytest.raises(ValueError, match="Unrecognized name"):
        ours.step_from_checkpoint_name(name)


@pytest.mark.row("R210")
def test_a_format_has_three_methods(step):
    for made in (step.standard_name_format(), step.NameFormat):
        for name in ("build_name", "find_all", "find_step"):
            assert callable(getattr(made, name))
        assert not hasattr(made, "build_metadata")
        assert not hasattr(made, "find_metadata")


def test_the_directory_of_an_item(step):
    directory = step.get_save_directory(555, "dir", "params", "foo", step_format_fixed_length=8)
    assert directory == epath.Path("dir/foo_00000555/params")
    assert step.get_save_directory(1, "dir", override_directory="x") == epath.Path("x")
    with pytest.raises(ValueError, match="None"):
        step.get_save_directory(1, None)


@pytest.mark.row("R199", "R200")
def test_the_latest_step_and_the_step_of_a_path(step, base):
    chosen = step.standard_name_format()
    assert step.latest_step_metadata(base, chosen) is None
    make(base, "3", "20", "100")
    latest = step.latest_step_metadata(base, chosen)
    assert (latest.step, latest.path) == (100, base / "100")
    assert latest.commit_timestamp.timestamp() == pytest.approx((base / "100").stat().mtime)
    assert step.step_metadata_of_checkpoint_path(base / "20", chosen).step == 20
    with pytest.raises(ValueError, match="Failed to resolve step metadata of checkpoint path"):
        step.step_metadata_of_checkpoint_path(base / "21", chosen)


def test_an_unfinished_step_is_preferred_where_it_is_asked_for(ours, base):
    chosen = ours.standard_name_format()
    make(base, "3", "4", "4.orbax-checkpoint-tmp-1", "5.orbax-checkpoint-tmp-2")
    find = ours.find_step_path
    assert find(base, chosen, step=4).name == "4"
    assert find(base, chosen, step=4, include_uncommitted=True).name == "4.orbax-checkpoint-tmp-1"
    assert find(base, chosen, step=5, include_uncommitted=True).name == "5.orbax-checkpoint-tmp-2"
    assert find(base, chosen, step=3, include_uncommitted=True).name == "3"
    with pytest.raises(ValueError, match="5"):
        find(base, chosen, step=5)


def test_times_are_those_of_the_note_or_of_the_directory(ours, base):
    make(base, "1", "2")
    (base / "1/_CHECKPOINT_METADATA").write_text(
        '{"init_timestamp_nsecs": 1000000000, "commit_timestamp_nsecs": 2000000000, "x": 1}'
    )
    (base / "2/_CHECKPOINT_METADATA").write_text("")
    os.utime(base / "2", (50, 50))
    first, second = (ours.Metadata(number, base / str(number)) for number in (1, 2))
    assert (first.init_timestamp_nsecs, first.commit_timestamp_nsecs) == (10**9, 2 * 10**9)
    assert first.commit_timestamp == dt.datetime.fromtimestamp(2, tz=dt.UTC)
    assert second.commit_timestamp_nsecs is None
    assert second.commit_timestamp == dt.datetime.fromtimestamp(50, tz=dt.UTC)
    assert first == ours.Metadata(1, base / "1")
    assert hash(first) == hash(ours.Metadata(1, base / "1"))


def test_what_is_finished_and_what_is_not(ours, base, monkeypatch):
    make(base, "1", "1.orbax-checkpoint-tmp-7")
    (base / "f").write_text("")
    for check in (ours.is_tmp_checkpoint, ours.is_checkpoint_finalized):
        with pytest.raises(ValueError, match="does not exist"):
            check(base / "none")
    assert ours.is_checkpoint_finalized(base / "1")
    assert not ours.is_checkpoint_finalized(base / "1.orbax-checkpoint-tmp-7")
    with pytest.raises(ValueError, match="not a directory"):
        ours.is_checkpoint_finalized(base / "f")
    assert not ours.is_tmp_checkpoint(base / "f")
    assert ours.tmp_checkpoints(base) == ["1.orbax-checkpoint-tmp-7"]
    # An object store has no renames: there a marker says it.
    monkeypatch.setattr(ours, "is_gcs_path", lambda _path: True)
    assert not ours.is_checkpoint_finalized(base / "1")
    assert ours.is_tmp_checkpoint(base / "1")
    assert list(ours.standard_name_format().find_all(base)) == []
    (base / "1/commit_success.txt").write_text("")
    assert ours.is_checkpoint_finalized(base / "1")
    assert [one.step for one in ours.standard_name_format().find_all(base)] == [1]


def test_steps_of_a_directory(ours, base):
    make(base, "1", "run_02", "metadata", "3.orbax-checkpoint-tmp-1")
    assert sorted(ours.checkpoint_steps(base)) == [1, 2]
    assert ours.any_checkpoint_step(base) in (1, 2)
    with pytest.raises(ValueError, match="does not exist"):
        ours.checkpoint_steps(base / "none")


@pytest.mark.row("R028", "R204")
def test_old_programs_find_these_functions_among_the_utils(ours, base):
    from pertinax.checkpoint import utils

    make(base, "1", "run_02")
    assert sorted(utils.checkpoint_steps(base)) == [1, 2]
    assert utils.step_from_checkpoint_name("run_02") == 2
    listed = [name for name in utils.__all__ if hasattr(ours, name)]
    assert len(listed) >= 11
    assert all(getattr(utils, name) is getattr(ours, name) for name in listed)


def test_cleaning_spares_files_and_whole_steps(ours, base):
    make(base, "1", "2.orbax-checkpoint-tmp-1", "x.orbax-checkpoint-tmp-9")
    (base / "f.orbax-checkpoint-tmp-1").write_text("")
    ours.cleanup_tmp_directories(base)
    assert names(base) == ["1", "f.orbax-checkpoint-tmp-1"]


def test_metadatas_are_built_all_at_once(ours, base):
    paths = [base / str(number) for number in range(5)]

    def build(path):
        number = int(path.name)
        return ours.Metadata(number, path) if number % 2 else None

    assert sorted(one.step for one in ours.build_step_metadatas(iter(paths), build)) == [1, 3]


def test_a_length_of_zero_pads_nothing(ours, base):
    zero = ours.standard_name_format(None, 0)
    (base / "7").mkdir(parents=True)
    assert zero.build_name(12) == "12"
    assert [one.step for one in zero.find_all(base)] == [7]


def test_where_no_root_is_there_are_no_steps(ours, base):
    nowhere = base / "nowhere"
    names = ours.standard_name_format()
    assert list(names.find_all(nowhere)) == []
    assert ours.latest_step_metadata(nowhere, names) is None
    with pytest.raises(FileNotFoundError):
        ours.any_checkpoint_step(nowhere)
