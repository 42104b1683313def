"""Training patterns of crystals are drawn within what is said of them, and a set is completed where it was cut."""

import h5py
import numpy as np
import pytest
from distributed import LocalCluster

from bluesky_edgestem.analysis import disk_library, pattern_draws, pattern_sets
from bluesky_edgestem.analysis.disk_library import TableSpec
from bluesky_edgestem.analysis.disk_tables import compute
from bluesky_edgestem.analysis.pattern_sets import draw_block, generate, read_block


@pytest.fixture(scope="module")
def scheduler():
    """The address of one scheduler for all: its worker is a thread here."""
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address=None
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def library(tmp_path_factory, scheduler):
    path = tmp_path_factory.mktemp("library") / "disks.h5"
    specs = [
        TableSpec("SrTiO3", 200.0, (20, 30), 4.0, 1.0, 0.6, strained=True),
        TableSpec("graphene", 80.0, (1, 2, 3), 4.0, 1.0, 0.6, strained=True),
    ]
    disk_library.generate(path, specs, scheduler)
    return path


def test_draws_keep_within_their_ranges_and_fill_them():
    table = compute("SrTiO3", 200.0, [24, 210], 8.6, step_mrad=2.0, g_max=0.4)
    rng = np.random.default_rng(0)
    drawn = [pattern_draws.draw(table, 128, rng) for _ in range(500)]

    def spans(values, low, high, share=0.9):
        values = np.asarray(values)
        assert low - 1e-9 <= values.min() and values.max() <= high + 1e-9
        assert np.ptp(values) > share * (high - low)

    spans([d.strain[0] for d in drawn], -0.02, 0.02)
    spans([d.layers * 0.195 for d in drawn], 5.0, 40.0)
    spans([np.log10(d.dose) for d in drawn], 3.0, 6.0)
    spans([d.background for d in drawn], 0.0, 0.7)
    spans([d.shift_px for d in drawn], -3.0, 3.0)
    spans([np.hypot(*d.mistilt_mrad) for d in drawn], 0.0, 5.0)
    # Disks of SrTiO3 touch at 3.2 mrad.
    spans([d.semiangle_mrad for d in drawn], 0.8, 3.15)
    spans([np.linalg.cond(np.reshape(d.distortion, (2, 2))) - 1 for d in drawn], 0.0, 0.0203)
    assert 0.05 < np.mean([d.background == 0 for d in drawn]) < 0.15


def test_a_set_is_the_same_again_however_it_came_about(library, scheduler, tmp_path):
    whole, cut = tmp_path / "whole.h5", tmp_path / "cut.h5"
    progress = []
    made = generate(
        whole, library, 3, 8, 64, scheduler, per_block=4, progress=lambda done, of: progress.append((done, of))
    )
    assert (made, progress) == (2, [(1, 2), (2, 2)])
    assert generate(whole, library, 3, 8, 64, scheduler="tcp://127.0.0.1:1", per_block=4) == 0  # asks no worker
    with h5py.File(whole) as source, h5py.File(cut, "w") as file:
        file.attrs.update(source.attrs)
        source.copy("block_00001", file)
        file.create_group("unfinished")
    assert generate(cut, library, 3, 8, 64, scheduler, per_block=4) == 1
    for index in range(2):
        one, other = read_block(whole, index), read_block(cut, index)
        assert (one.material, one.energy_keV) == (other.material, other.energy_keV)
        assert np.array_equal(one.counts, other.counts)
        assert np.array_equal(one.drawn, other.drawn)
    assert {read_block(whole, index).material for index in range(2)} == {"SrTiO3", "graphene"}


def test_a_pattern_is_that_of_its_parameters(library):
    block = draw_block(library, "SrTiO3", 200.0, 1, 0, 64, 40)
    table = disk_library.read(library, "SrTiO3", 200.0)
    chosen = int(np.argmax(block.drawn["dose"]))
    row = {name: block.drawn[name][chosen].tolist() for name in block.drawn.dtype.names}
    mean = pattern_draws.expected(table, pattern_draws.Drawn(**row), 64) * row["dose"]
    good = ~block.dead & (block.hot == 0)
    assert not block.counts[chosen][block.dead].any()
    # Poisson: the mean square of the residuals is one, known to √(2/4000) and a little more where few are counted.
    residual = ((block.counts[chosen] - mean) ** 2 / mean)[good & (mean > 1)]
    assert residual.mean() == pytest.approx(1.0, abs=0.12)
    assert block.counts.dtype == np.uint16


def test_what_does_not_fit_is_refused(library, scheduler, tmp_path):
    path = tmp_path / "set.h5"
    generate(path, library, 0, 2, 64, scheduler, per_block=2)
    with pytest.raises(ValueError, match=r"holds other patterns \(seed 0, wanted 1\)"):
        generate(path, library, 1, 2, 64, per_block=2)
    with pytest.raises(ValueError, match="no block 7 of format 1; make it with `edgestem train patterns`"):
        read_block(path, 7)
    with pytest.raises(ValueError, match=r"there is no library of disks .*: make it with `edgestem train library`"):
        generate(tmp_path / "other.h5", tmp_path / "none.h5", 0, 2)
    narrow = compute("SrTiO3", 200.0, [24, 60], 0.5, step_mrad=0.5, g_max=0.4)
    with pytest.raises(ValueError, match=r"allow semiangles up to .* compute a table for larger angles"):
        pattern_draws.draw(narrow, 128, np.random.default_rng(0))


def test_the_commands_make_a_library_and_a_set(scheduler, tmp_path, capsys):
    library, patterns = tmp_path / "disks.h5", tmp_path / "patterns.h5"
    words = ["--out", str(library), "--material", "graphene", "--energies", "80", "--angle-mrad", "4"]
    assert disk_library.main([*words, "--step-mrad", "1", "--scheduler", scheduler]) == 0
    assert "table 1 of 1" in capsys.readouterr().out
    words = ["--out", str(patterns), "--library", str(library), "--patterns", "3", "--pixels", "64"]
    assert pattern_sets.main([*words, "--scheduler", scheduler]) == 0
    assert "block 1 of 1" in capsys.readouterr().out
    assert len(read_block(patterns, 0).counts) == pattern_sets.PER_BLOCK
