"""The disks that ship are those that were computed, to a few bits."""

from __future__ import annotations

import numpy as np
import pytest

from bluesky_edgestem.analysis import disk_store, disk_tables
from bluesky_edgestem.analysis.disk_rendering import DeviceTable


def test_what_is_written_is_read_again_to_eight_bits(tmp_path) -> None:
    table = disk_tables.compute("Si", 200.0, (24, 26, 28, 30), 3.0, step_mrad=0.5, g_max=0.7, strained=True)
    path = tmp_path / "disks.bin"
    disk_store.write(path, [table])
    found = disk_store.table("Si", 200.1, path=path)
    assert found is not None
    wanted = DeviceTable.of(table)
    assert list(found.layers) == [24, 26, 28, 30]
    assert np.array_equal(found.reflections.numpy(), wanted.reflections.numpy())
    largest = wanted.intensity.amax((0, 2, 3), keepdim=True)
    # Half a level of the square root, of 255.
    off = (found.intensity.clamp(min=0).sqrt() - wanted.intensity.clamp(min=0).sqrt()).abs() / largest.sqrt()
    assert float(off.max()) < 0.51 / 255
    # Every other thickness and the last; half a level of the largest, of 127.
    assert list(found.strained_layers) == [24, 28, 30]
    slopes = wanted.by_strain[:, [0, 2, 3]]
    steepest = slopes.abs().amax((1, 3, 4), keepdim=True)
    assert float(((found.by_strain - slopes).abs() / steepest.clamp(min=1e-9)).max()) < 0.51 / 127
    assert disk_store.table("Si", 210.0, path=path) is None
    assert disk_store.table("MoS2", 200.0, path=path) is None


def test_a_table_without_derivatives_is_refused(tmp_path) -> None:
    table = disk_tables.compute("Si", 200.0, (24, 26), 3.0, step_mrad=1.0, g_max=0.5)
    with pytest.raises(ValueError, match="the table of Si has no derivatives by strain: compute it with strained=True"):
        disk_store.write(tmp_path / "disks.bin", [table])


def test_the_library_that_ships_has_thick_crystals_at_three_energies() -> None:
    for spec in disk_store.specs():
        found = disk_store.table(spec.material, spec.energy_keV)
        assert found is not None
        assert tuple(found.layers) == spec.layers
    assert disk_store.SHIPPED.stat().st_size < 10e6


def test_a_file_that_is_no_library_is_refused(tmp_path) -> None:
    path = tmp_path / "disks.bin"
    path.write_bytes(disk_store.SHIPPED.read_bytes()[:5000])
    with pytest.raises(ValueError, match="cut short or altered"):
        disk_store.table("Si", 200.0, path=path)
    with pytest.raises(ValueError, match="No such file"):
        disk_store.table("Si", 200.0, path=tmp_path / "missing.bin")
