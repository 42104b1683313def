"""Files of scans, and a network that knows what is in them."""

from __future__ import annotations

from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest

from bluesky_edgestem.analysis.affine_readings import AffineReadings
from bluesky_edgestem.analysis.crystals import deformation
from bluesky_edgestem.analysis.strain_autoencoder import StrainAutoencoder
from bluesky_edgestem.geometry import FieldOfView, ScanGrid

GRID = ScanGrid(FieldOfView(-5.0, 0.0, 22.0, 14.0), 12, 8)


class Truth:
    """The strain of the frame whose number is in its first pixel."""

    grid = GRID
    strain = 0.01 * np.column_stack([np.sin(GRID.positions[:, 0]), np.cos(GRID.positions[:, 1]), np.ones(96) / 5])
    rotation = 0.02 * np.cos(GRID.positions[:, 0] / 4)


class Network:
    """Reads what `Truth` says; has converged after training, unless seeded with 13, or 14: then nothing was learned.

    With 15 the lattice that it knows is 5 % narrower.
    """

    base_vectors = np.array([[10.0, 0.0], [0.0, 10.0]])

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.converged = seed not in (13, 14)
        self.why = "" if self.converged else "the disks were not found"
        untrusted = f"the network has not converged, its strain is not to be trusted: {self.why}"
        self.caution = "" if self.converged else untrusted
        self.base = None if seed == 14 else "disks"
        self.report = {"disk_radius_px": 4.2, "floor": [1.25e-5]}

    def read(self, frames: np.ndarray) -> AffineReadings:
        numbers = frames[:, 0, 0].astype(int) - 1
        n = len(numbers)
        found = deformation(Truth.strain[numbers], Truth.rotation[numbers])
        flagged = np.where(numbers == 50, "no electrons: the frame is empty", "").astype(object)
        some = np.full((n, 2), 7.5)
        covariance = np.repeat(1e-8 * np.eye(4)[None], n, axis=0)
        transform = np.swapaxes(np.linalg.inv(found), 1, 2) * (1.05 if self.seed == 15 else 1.0)
        return AffineReadings(transform, covariance, some, some, some[:, 0], flagged)

    def save(self, path: Path) -> None:
        path.write_text(f"EDGESTEM-{self.seed}")


@pytest.fixture
def truth() -> type[Truth]:
    return Truth


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> type[Network]:
    """In place of the real one, in training and in weights files."""

    def train(frames, *, seed=0, progress=None):
        assert frames.shape[1:] == (32, 32) and frames.dtype == np.uint16
        if progress is not None:
            progress("step 1 of 1")
        return Network(seed)

    def load(path):
        return Network(int(path.read_text().removeprefix("EDGESTEM-")))

    monkeypatch.setattr(StrainAutoencoder, "train", staticmethod(train))
    monkeypatch.setattr(StrainAutoencoder, "load", staticmethod(load))
    return Network


@pytest.fixture
def write(tmp_path: Path):
    """Writes a file of `Truth`'s frames, in the layout of this package's writers."""

    def frames_file(
        name="run.h5", lost=(), positions=GRID.positions, dtype=np.uint16, frames=96, offset=0.0, **more
    ) -> Path:
        numbers = np.zeros((frames, 32, 32), dtype)
        numbers[:, 0, 0] = np.arange(frames) + 1 + offset
        with h5py.File(tmp_path / name, "w", libver="latest") as file:
            shape, compression = (frames, 32, 32), hdf5plugin.Bitshuffle(cname="lz4")
            data = file.create_dataset(
                "/entry/data/data", shape, dtype, chunks=(1, 32, 32), maxshape=(None, 32, 32), **compression
            )
            for i in set(range(frames)) - set(lost):
                data[i] = numbers[i]
            if positions is not None:
                for axis, along in zip("XY", positions.T, strict=True):
                    file[f"/entry/instrument/NDAttributes/Scan{axis}"] = along
            for dataset, values in more.items():
                file[dataset] = values
        return tmp_path / name

    return frames_file
