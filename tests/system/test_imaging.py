"""Live images of scans of the simulated microscope, against the frames in the file."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from event_model import DocumentNames, schema_validators

from bluesky_edgestem.analysis.sparse_masks import Annulus
from bluesky_edgestem.geometry import FieldOfView, ScanGrid

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]
FIELD = FieldOfView(-20.0, -10.0, 40.0, 30.0)


@pytest.fixture(scope="module")
def scans(ioc, client_class):
    client = client_class(str(Path(__file__).parent / "imaging_runs.py"), ioc.client_env)
    yield client
    client.close()


def columns(documents):
    """Columns of the stream ``imaging``, without what fills the rows up."""
    uid = next(doc["uid"] for name, doc in documents if name == "descriptor" and doc["name"] == "imaging")
    pages = [doc["data"] for name, doc in documents if name == "event_page" and doc["descriptor"] == uid]
    data = {key: np.concatenate([np.ravel(page[key]) for page in pages]) for key in pages[0]}
    return {key: values[data["frame"] >= 0] for key, values in data.items()}


def check(documents, frames, images):
    """The stream and the images are those of the frames; returns the centres of mass [mrad]."""
    optics = documents[0][1]["optics"]
    n = optics["n_pixels"]
    pixels = (np.arange(n) - (n - 1) / 2) * optics["pixel_mrad"]
    total = frames.sum(axis=(1, 2), dtype=float)
    com = np.column_stack([(frames.sum(axis=1) @ pixels), (frames.sum(axis=2) @ pixels)]) / total[:, None]
    found = columns(documents)
    assert found["frame"].tolist() == list(range(len(frames)))
    assert found["sum"].tolist() == total.tolist()
    assert np.column_stack([found["com_x"], found["com_y"]]) == pytest.approx(com, abs=1e-10)
    assert images.values["sum"].tolist() == total.tolist()
    assert (images.frames, images.lost, images.outside) == (len(frames), 0, 0)
    return com


def test_a_raster_with_imaging(scans, ioc, tmp_path):
    nx, ny = 40, 30
    documents, error, frames, images, grown = scans.call(
        "raster", ioc.prefix, str(tmp_path), nx, ny, str(tmp_path / "images.png"), timeout=180
    )
    assert error == ""
    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(doc)
    rows = -(-nx * ny // 256)
    assert documents[-1][1]["num_events"] == {"primary": nx * ny, "imaging": rows, "imaging_maps": 1}
    assert Counter(name for name, _ in documents)["descriptor"] == 3
    com = check(documents, frames, images)
    assert images.image("magnitude") == pytest.approx(np.hypot(*com.T).reshape(ny, nx), abs=1e-10)
    pixel = documents[0][1]["optics"]["pixel_mrad"]
    found = columns(documents)
    x, y = com.T.reshape(2, ny, nx)
    assert found["magnitude"] == pytest.approx(np.hypot(*com.T), abs=1e-10)
    assert np.exp(1j * found["direction"]) == pytest.approx(np.exp(1j * np.arctan2(com[:, 1], com[:, 0])), abs=1e-9)
    dx, dy = FIELD.width / (nx - 1), FIELD.height / (ny - 1)
    slopes = {"divergence": np.gradient(x, dx, axis=1) + np.gradient(y, dy, axis=0)}
    slopes["curl"] = np.gradient(y, dx, axis=1) - np.gradient(x, dy, axis=0)
    uid = next(doc["uid"] for name, doc in documents if name == "descriptor" and doc["name"] == "imaging_maps")
    (page,) = [doc["data"] for name, doc in documents if name == "event_page" and doc["descriptor"] == uid]
    assert page.keys() == slopes.keys()
    for name, expected in slopes.items():
        (image,) = page[name]
        assert np.asarray(image) == pytest.approx(expected, abs=1e-9)
    for name, annulus in {"disk": Annulus(0.0, 3.0), "ring": Annulus(3.0, 9.0)}.items():
        assert found[name].tolist() == frames[:, annulus.mask(frames.shape[1:], pixel)].sum(axis=1).tolist()
    positions = ScanGrid(FIELD, nx, ny).positions
    assert np.column_stack([found["x"], found["y"]]) == pytest.approx(positions, abs=1e-6)
    assert (tmp_path / "images.png").read_bytes().startswith(b"\x89PNG")
    assert any(0 < seen < nx * ny for _, seen in grown), "the images did not grow while the scan ran"


def test_an_aborted_raster_keeps_what_was_reduced(scans, ioc, tmp_path):
    documents, _, frames, images, _ = scans.call("raster", ioc.prefix, str(tmp_path), 80, 60, None, 300, timeout=180)
    assert documents[-1][1]["exit_status"] == "abort"
    assert 256 <= len(columns(documents)["frame"]) <= images.frames < 4800
    measured = np.isfinite(images.values["sum"])
    assert measured.tolist() == [True] * images.frames + [False] * (4800 - images.frames)
    assert images.values["sum"][measured].tolist() == frames[: images.frames].sum(axis=(1, 2)).tolist()


def test_a_sobol_survey_has_a_value_at_each_position(scans, ioc, tmp_path):
    documents, error, frames, images, _ = scans.call("sobol", ioc.prefix, str(tmp_path), 64, timeout=180)
    assert error == ""
    check(documents, frames, images)
    assert images.grid is None
    found = columns(documents)
    assert images.positions.tolist() == np.column_stack([found["x"], found["y"]]).tolist()
    assert FIELD.contains(images.positions).all()
