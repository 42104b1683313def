"""Patterns to train on: settled by their seed, completed after an interruption, split by condition."""

import h5py
import numpy as np
import pytest

from bluesky_edgestem.analysis import disk_library
from bluesky_edgestem.analysis.disk_library import TableSpec
from bluesky_edgestem.analysis.training_data import generate, read, simulate_condition
from bluesky_edgestem.analysis.weights_file import check_output


def test_the_seed_and_the_number_settle_a_condition():
    one, same, other = (simulate_condition(3, index, 2) for index in (1, 1, 2))
    assert np.array_equal(one.patterns, same.patterns) and one.optics == same.optics
    assert other.optics != one.optics
    assert one.patterns.shape == (2, 128, 128)
    assert one.patterns.sum((1, 2)) == pytest.approx(1.0, abs=0.01)
    assert np.abs(one.strain[:, :2]).max() <= 0.045 and np.abs(one.shift_px).max() <= 2.0


def test_an_interrupted_file_is_completed(tmp_path):
    path = tmp_path / "patterns.h5"
    assert generate(path, seed=3, n_patterns=3, per_condition=2) == 2
    with h5py.File(path, "a") as file:
        before = file["condition_00000/patterns"][()]
        file.move("condition_00001", "unfinished")  # as a process killed while it wrote leaves it
    assert generate(path, seed=3, n_patterns=6, per_condition=2) == 2
    with h5py.File(path, "r") as file:
        assert sorted(file) == ["condition_00000", "condition_00001", "condition_00002"]
        assert np.array_equal(file["condition_00000/patterns"][()], before)
    assert generate(path, seed=3, n_patterns=6, per_condition=2) == 0
    assert [s.index for s in read(path, held_out=True)] == [0]
    assert [s.index for s in read(path, held_out=False)] == [1, 2]
    assert [s.index for s in read(path, held_out=False, n_patterns=3)] == [1]
    stored, fresh = read(path, held_out=False)[0], simulate_condition(3, 1, 2)
    assert stored.optics == fresh.optics
    assert np.array_equal(stored.patterns, fresh.patterns) and np.array_equal(stored.strain, fresh.strain)


def test_a_file_of_another_seed_is_left_alone(tmp_path):
    path = tmp_path / "patterns.h5"
    generate(path, seed=3, n_patterns=1, per_condition=2)
    with pytest.raises(ValueError, match=r"holds patterns of format 1 and seed 3; wanted .* seed 4"):
        generate(path, seed=4, n_patterns=1, per_condition=2)


@pytest.mark.parametrize("held", [{"entry": True}, {"unfinished": True}], ids=["of another kind", "of one name"])
def test_a_file_of_another_kind_is_left_as_it_is(held, tmp_path):
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        for name in held:
            file.create_dataset(f"{name}/data", data=np.arange(5))
    before = path.read_bytes()
    spec = TableSpec("Si", 200.0, (3,))
    for write in (lambda: generate(path, 0, 48), lambda: disk_library.generate(path, [spec])):
        with pytest.raises(ValueError, match=r"scan\.h5 holds .*: it is no file of"):
            write()
        assert path.read_bytes() == before
    path.write_text("no HDF5")
    with pytest.raises(ValueError, match="is no HDF5 file, let alone one of multislice patterns: choose another"):
        generate(path, 0, 48)
    assert path.read_text() == "no HDF5"


def test_weights_replace_weights_and_nothing_else(tmp_path):
    out = tmp_path / "descriptor.pt"
    check_output(out, (".md",))
    (tmp_path / "descriptor.md").write_text("notes")
    with pytest.raises(ValueError, match=r"descriptor\.md, which is there, would be replaced"):
        check_output(out, (".md",))
    out.write_bytes(b"EDGESTEM-DESCRIPTOR 2 ...")  # whose card that is
    check_output(out, (".md",))
    out.write_bytes(b"\x89HDF")
    with pytest.raises(ValueError, match="holds something else than weights"):
        check_output(out)
