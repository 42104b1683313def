"""Patterns rendered many at once are those that are composed one by one."""

import numpy as np
import pytest
import torch

from bluesky_edgestem.analysis import crystals, disk_patterns, disk_tables
from bluesky_edgestem.analysis.disk_rendering import DeviceTable, render
from bluesky_edgestem.analysis.optics import Optics

OPTICS = Optics(energy_keV=200.0, semiangle_mrad=1.8, pixel_mrad=0.45, n_pixels=64)


@pytest.fixture(scope="module", params=["Si", "Si, strained fills", "graphene"])
def table(request):
    name, *strained = request.param.split(", ")
    layers = [24, 26, 28, 30, 32] if name == "Si" else [1, 2, 3]
    return disk_tables.compute(name, 200.0, layers, 5.0, step_mrad=0.5, g_max=1.0, strained=bool(strained))


def rendered(table, strain, rotation, layers, shift, mistilt, distortion):
    def tensor(values):
        return torch.tensor(np.asarray(values), dtype=torch.float32)

    n = len(layers)
    return render(
        DeviceTable.of(table), OPTICS.n_pixels, tensor(crystals.deformation(strain, rotation)), tensor(layers),
        tensor(shift), tensor(mistilt * 1e-3 / OPTICS.wavelength), tensor(distortion),
        tensor([OPTICS.semiangle_mrad * 1e-3 / OPTICS.wavelength] * n), tensor([OPTICS.pixel_reciprocal] * n),
    ).numpy()  # fmt: skip


def test_a_batch_is_what_compose_gives_one_by_one(table):
    rng = np.random.default_rng(1)
    n = 6
    strain, rotation = rng.uniform(-0.03, 0.03, (n, 3)), rng.uniform(-3, 3, n)
    shift, mistilt = rng.uniform(-3, 3, (n, 2)), rng.uniform(-1.5, 1.5, (n, 2))
    distortion = np.eye(2) + rng.uniform(-0.01, 0.01, (n, 2, 2))
    layers = rng.uniform(*table.layers[[0, -1]], n)
    got = rendered(table, strain, rotation, layers, shift, mistilt, distortion)
    for i in range(n):
        wanted = disk_patterns.compose(
            table, OPTICS, strain[i], rotation[i], layers[i], tuple(shift[i]), mistilt_mrad=tuple(mistilt[i]),
            distortion=distortion[i],
        )  # fmt: skip
        # A pixel in single precision may be looked up a hair beside; silicon's surface reflections, of a few 1e-4 of
        # the electrons, are left out.
        assert np.abs(got[i] - wanted).sum() < (1e-3 if table.material == "Si" else 2e-4)
        assert got[i].sum() == pytest.approx(wanted.sum(), abs=1e-3)


def test_a_foreign_lattice_moves_the_disks_and_keeps_their_light(table):
    still = np.zeros((1, 3)), np.zeros(1), [2.0 if table.material == "graphene" else 28.0]
    flat = np.zeros((1, 2)), np.zeros((1, 2)), np.eye(2)[None]
    own = rendered(table, *still, *flat)
    tensors = [torch.tensor(np.asarray(v), dtype=torch.float32) for v in (np.eye(2)[None], still[2], *flat)]
    cutoff, pixel = (
        torch.tensor([v]) for v in (OPTICS.semiangle_mrad * 1e-3 / OPTICS.wavelength, OPTICS.pixel_reciprocal)
    )
    other = render(DeviceTable.of(table), OPTICS.n_pixels, *tensors, cutoff, pixel, torch.eye(2)[None] * 0.9).numpy()
    middle = slice(28, 36)
    assert np.allclose(own[0, middle, middle], other[0, middle, middle], atol=1e-7)
    outside = own.copy()
    outside[0, middle, middle] = 0
    # Disks of 4 pixels' radius, moved by 2 and more.
    assert np.abs(own - other).sum() > 0.3 * outside.sum() > 0
