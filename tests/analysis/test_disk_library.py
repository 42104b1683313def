"""A library of tables is whole, the same again, and completed where it was cut short."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from bluesky_edgestem.analysis import disk_library
from bluesky_edgestem.analysis.disk_library import TableSpec, generate, read, standard

SPECS = [
    TableSpec("graphene", 80.0, (1, 2, 3), 1.0, 0.5, 0.6),
    TableSpec("SrTiO3", 200.0, (4, 6), 1.0, 0.5, 0.4, strained=True),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("disks") / "disks.h5"
    progress = []
    assert generate(path, SPECS, progress=lambda done, of: progress.append((done, of))) == 2
    assert progress == [(1, 2), (2, 2)]
    return path


def test_tables_come_back_as_they_were_computed(library):
    expected, kept = SPECS[1].compute(), read(library, "SrTiO3", 200.0)
    assert np.array_equal(kept.reflections, expected.reflections)
    assert np.array_equal(kept.layers, [4, 6])
    assert kept.step == expected.step
    # Half precision: 11 bits, and 6e-8 where that is more.
    assert kept.intensity == pytest.approx(expected.intensity, rel=5e-4, abs=6e-8)
    assert kept.diffuse == pytest.approx(expected.diffuse, rel=5e-4, abs=6e-8)
    assert kept.intensity.dtype == np.float32
    assert kept.by_strain == pytest.approx(expected.by_strain, rel=5e-4, abs=6e-8)
    assert read(library, "graphene", 80.0).by_strain is None


def test_what_is_there_is_not_computed_again(library):
    assert generate(library, SPECS, scheduler="tcp://127.0.0.1:1") == 0  # asks no worker


def test_what_was_cut_short_is_completed(library, tmp_path):
    path = tmp_path / "cut.h5"
    with h5py.File(library) as source, h5py.File(path, "w") as cut:
        cut.attrs["format"] = source.attrs["format"]
        source.copy("SrTiO3_200keV", cut)
        cut.create_group("unfinished")
    assert generate(path, SPECS) == 1
    with h5py.File(path) as file:
        assert set(file) == {"SrTiO3_200keV", "graphene_80keV"}
    assert np.array_equal(read(path, "graphene", 80.0).intensity, read(library, "graphene", 80.0).intensity)


def test_other_parameters_and_what_is_not_there_are_refused(library):
    with pytest.raises(ValueError, match="holds graphene_80keV with other parameters"):
        generate(library, [replace(SPECS[0], step_mrad=0.25)])
    with pytest.raises(ValueError, match=r"has no table Si_200keV; it has SrTiO3_200keV, graphene_80keV"):
        read(library, "Si", 200.0)
    with h5py.File(library.with_name("other.h5"), "w") as other:
        other.attrs["format"] = disk_library.FORMAT + 1
    with pytest.raises(ValueError, match="is no library of disks"):
        read(library.with_name("other.h5"), "Si", 200.0)


def test_the_standard_library_spans_what_training_asks_for():
    specs = standard()
    assert len(specs) == 15
    assert {spec.name for spec in specs} >= {"graphene_80keV", "Si_200keV", "SrTiO3_300keV"}
    silicon = next(spec for spec in specs if spec.name == "Si_300keV")
    assert silicon.layers[0] * 0.192 < 5.0
    assert silicon.layers[-1] * 0.192 > 40.0
    assert all(n % 2 == 0 for n in silicon.layers)  # half a period left over would show forbidden reflections
    assert silicon.strained
