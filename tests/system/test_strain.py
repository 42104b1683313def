"""Strain and the detector's rotation from flights of the simulated microscope, and strain of a run in the catalog."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
from event_model import DocumentNames, schema_validators

from bluesky_edgestem.analysis.affine_readings import AffineReadings
from bluesky_edgestem.analysis.scan_images import detector_to_scan
from bluesky_edgestem.analysis.strain_autoencoder import StrainAutoencoder
from bluesky_edgestem.catalog.delivery import impatient, rewrite
from bluesky_edgestem.catalog.search import search
from bluesky_edgestem.catalog.server import CatalogServer
from bluesky_edgestem.cli import main
from bluesky_edgestem.geometry import FieldOfView, ScanGrid
from bluesky_edgestem.recorded.scan import Given, open_run
from bluesky_edgestem.sim.simplon_launch import SimplonProcess

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

NX, NY, PIXELS = 32, 24, 32
GRID = ScanGrid(FieldOfView(-15.0, -10.0, 31.0, 23.0), NX, NY)
DILATATION = np.arange(1, NX * NY + 1) % 97 + 1
"""In 10^-4, frame by frame."""


@pytest.fixture(scope="module")
def scanner(ioc, client_class: type) -> Iterator:
    """Calls the functions of strain_runs.py."""
    client = client_class(str(Path(__file__).parent / "strain_runs.py"), ioc.client_env)
    yield client
    client.close()


def recorded(path: Path, frames: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "/entry/data/data", data=frames, chunks=(1, *frames.shape[1:]), **hdf5plugin.Bitshuffle(cname="lz4")
        )
    return path


def deflected(rotation: float, mirrored: bool, signal: float) -> np.ndarray:
    """Frames of a disk that particles draw to them, on a detector that is turned; they scatter to its corners."""
    rng = np.random.default_rng(1)
    x, y = GRID.positions.T
    phase, shift = np.zeros(len(x)), np.zeros((len(x), 2))
    for at_x, at_y, size in ((-8.0, -4.0, 3.0), (4.0, 5.0, 4.0), (10.0, -6.0, 2.5), (-6.0, 9.0, 2.5)):
        bump = signal * np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / (2 * size**2))
        phase += bump
        shift -= bump[:, None] * np.column_stack([x - at_x, y - at_y]) / size**2
    shift = shift @ detector_to_scan(rotation, mirrored)
    pixel = np.arange(PIXELS) - (PIXELS - 1) / 2
    along = [np.exp(-((pixel - s[:, None]) ** 2) / 8) for s in (shift[:, 1], shift[:, 0])]
    disk = 40 * along[0][:, :, None] * along[1][:, None, :]
    corners = np.hypot(*np.meshgrid(pixel, pixel)) > 15.5
    return rng.poisson(disk + 0.5 * phase[:, None, None] * corners).astype(np.uint16)


def stream(documents: list, name: str) -> dict[str, np.ndarray]:
    """Columns of a derived stream."""
    uid = next(doc["uid"] for kind, doc in documents if kind == "descriptor" and doc["name"] == name)
    pages = [doc["data"] for kind, doc in documents if kind == "event_page" and doc["descriptor"] == uid]
    return {key: np.concatenate([np.asarray(page[key]) for page in pages]) for key in pages[0]}


@pytest.mark.parametrize(("rotation", "mirrored"), [(0.6, False), (-2.2, True)])
def test_the_rotation_of_the_detector_is_measured(ioc, scanner, tmp_path, rotation, mirrored):
    path = recorded(tmp_path / "frames.h5", deflected(rotation, mirrored, 3.0))
    (tmp_path / "out").mkdir()
    with SimplonProcess(file=str(path), rate=2000) as detector:
        host = f"127.0.0.1:{detector.api_port}"
        documents, error, found = scanner.call(
            "calibrated", ioc.prefix, host, detector.address, str(tmp_path / "out"), NX, NY
        )
    assert error == ""
    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(doc)
    row = stream(documents, "scan_rotation")
    assert row["rotation"].tolist() == [found["rotation"]] and row["mirrored"].tolist() == [mirrored]
    assert (found["mirrored"], found["direction_known"]) == (mirrored, True)
    assert abs(found["rotation"] - rotation) < 5 * found["rotation_sd"] < np.radians(10)
    assert documents[-1][1]["num_events"]["scan_rotation"] == 1


def test_a_detector_that_sees_noise_alone_is_not_calibrated_and_its_frames_are_kept(ioc, scanner, tmp_path):
    path = recorded(tmp_path / "frames.h5", deflected(0.6, False, 0.0))
    (tmp_path / "out").mkdir()
    with SimplonProcess(file=str(path), rate=2000) as detector:
        host = f"127.0.0.1:{detector.api_port}"
        documents, error, _ = scanner.call(
            "calibrated", ioc.prefix, host, detector.address, str(tmp_path / "out"), NX, NY
        )
    assert error.startswith("WeakSignal: the deflections do not tell how the detector is turned")
    stop = documents[-1][1]
    assert stop["exit_status"] == "fail" and "remain as curl" in stop["reason"]
    assert stop["num_events"]["primary"] == NX * NY


@pytest.fixture(scope="module")
def strained(ioc, scanner, tmp_path_factory) -> tuple[list, Path]:
    """Documents of a raster whose frames have a dilatation in their first pixel, two of them lost; and its folder."""
    folder = tmp_path_factory.mktemp("strained")
    (folder / "frames").mkdir()
    frames = np.zeros((NX * NY, PIXELS, PIXELS), np.uint16)
    frames[:, 0, 0], frames[:, 16, 16] = DILATATION, 100
    path = recorded(folder / "sent.h5", frames)
    with SimplonProcess(file=str(path), rate=2000, drop=[9, 10]) as detector:
        host = f"127.0.0.1:{detector.api_port}"
        call = ("strained", ioc.prefix, host, detector.address, str(folder / "frames"), NX, NY)
        documents, error = scanner.call(*call, timeout=180)
    assert error == ""
    return documents, folder


def expected() -> np.ndarray:
    """Strain relative to the median of the scan, nan where a frame was lost."""
    there = np.delete(DILATATION, [9, 10])
    strain = (1 + 1e-4 * DILATATION) / (1 + 1e-4 * np.median(there)) - 1
    strain[[9, 10]] = np.nan
    return strain


def test_strain_is_streams_of_the_run(strained):
    documents, _ = strained
    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(doc)
    assert documents[-1][1]["num_events"] == {
        "primary": NX * NY, "series": 1, "strain": 3, "strain_maps": 1, "imaging": 3, "imaging_maps": 1
    }  # fmt: skip
    found = stream(documents, "strain")
    frame = found["frame"].ravel()
    assert frame[frame >= 0].tolist() == np.delete(np.arange(NX * NY), [9, 10]).tolist()
    assert found["exx"].ravel()[frame >= 0] == pytest.approx(np.delete(expected(), [9, 10]), abs=1e-9)
    assert set(found["reference"]) == {"the region x -15 to 16 nm, y -10 to 13 nm"}
    (image,) = stream(documents, "strain_maps")["eyy"]
    assert image.ravel() == pytest.approx(expected(), abs=1e-9, nan_ok=True)


class Reader:
    """As that of strain_runs.py."""

    base_vectors = np.array([[10.0, 0.0], [0.0, 10.0]])
    base, converged, caution, report = "disks", True, "", {}

    def read(self, frames):
        n = len(frames)
        transform = np.eye(2) / (1 + 1e-4 * frames[:, 0, 0].astype(float))[:, None, None]
        flagged = np.where(frames[:, 0, 0] == 0, "no electrons: the frame is empty", "").astype(object)
        some = np.full((n, 2), 15.5)
        return AffineReadings(transform, np.repeat(1e-8 * np.eye(4)[None], n, 0), some, some, some[:, 0], flagged)

    def save(self, path):
        path.write_text("weights")


def test_a_run_in_the_catalog_is_analysed_and_the_analysis_is_a_run(strained, monkeypatch, tmp_path, capsys):
    documents, folder = strained
    uid = documents[0][1]["uid"]
    seen = []
    monkeypatch.setattr(StrainAutoencoder, "train", staticmethod(lambda f, **_: seen.append(f.shape) or Reader()))
    with CatalogServer(folder / "catalog", frames=[folder / "frames"]) as server:
        client = server.client()
        rewrite(impatient(client), documents)
        words = [uid[:10], "--folder", str(folder), "--out", str(tmp_path / "out")]
        assert main(["analyse", "strain", *words]) == 0
        assert seen == [(NX * NY, PIXELS, PIXELS)]
        (found,) = search(client, f"analyses={uid}")
        assert (found.plan, found.sample, found.exit_status) == ("analyse_strain", "Si", "success")
        assert f"in the catalog as run {found.uid}" in capsys.readouterr().out
        run = client[found.uid]
        start = run.metadata["start"]
        assert start["optics"] == documents[0][1]["optics"] and len(start["weights_sha256"]) == 64
        assert start["reference"] == "the median of the scan"
        maps = {key: np.asarray(run["strain_maps"][key].read()) for key in ("exx", "rotation_sd")}
        assert maps["exx"].ravel() == pytest.approx(expected(), abs=1e-6, nan_ok=True)
        frame = np.asarray(run["strain"]["frame"].read()).ravel()
        assert frame[frame >= 0].tolist() == list(range(NX * NY))
        with h5py.File(tmp_path / "out" / "strain.h5") as file:
            assert file["entry/process"].attrs["scan"] == uid
            assert np.array_equal(file["entry/exx/data"][:], maps["exx"].reshape(NY, NX), equal_nan=True)
        # An analysis has no frames of its own, and an unknown run is one line.
        with pytest.raises(ValueError, match="has no frames"), open_run(client, found.uid):
            pass
        assert main(["analyse", "strain", "0123", "--folder", str(folder)]) == 1
        assert "no run '0123' in this catalog; `edgestem catalog search` lists" in capsys.readouterr().err
        with open_run(client, uid, Given(pixel_mrad=0.2)) as scan:
            assert (scan.scan.optics.pixel_mrad, scan.grid) == (0.2, GRID)
