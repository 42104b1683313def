"""Frames that a run announces become images, each where the probe was, and rows of the stream."""

from __future__ import annotations

import subprocess
import time

import event_model
import h5py
import hdf5plugin
import numpy as np
import pytest

from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.analysis.sparse_masks import Annulus
from bluesky_edgestem.callbacks.frame_rows import ROW
from bluesky_edgestem.callbacks.imaging import Imaging
from bluesky_edgestem.callbacks.imaging_pictures import colours, draw, unit, update
from bluesky_edgestem.callbacks.imaging_window import LiveWindow
from bluesky_edgestem.geometry import FieldOfView, ScanGrid
from bluesky_edgestem.stream.encoding import compress
from bluesky_edgestem.stream.frames import Frames
from bluesky_edgestem.stream.series import Frame, Series
from bluesky_edgestem.stream.series_file import Context, SeriesFile

OPTICS = {"energy_keV": 80.0, "semiangle_mrad": 2.0, "pixel_mrad": 0.5, "n_pixels": 32}
FIELD = {"x0": -10.0, "y0": 0.0, "width": 50.0, "height": 20.0}
NX, NY = 6, 5
GRID = ScanGrid(FieldOfView(**FIELD), NX, NY)
RASTER = {"optics": OPTICS, "field_of_view": FIELD, "shape": [NY, NX]}
FILTERS = {
    "BSLZ4": hdf5plugin.Bitshuffle(cname="lz4"),
    "LZ4": hdf5plugin.LZ4(),
    "none": {},
    "gzip": {"compression": "gzip"},
    "BSZSTD": hdf5plugin.Bitshuffle(cname="zstd"),
}
Y, X = (c - 15.5 for c in np.mgrid[:32, :32])


def some_frames(n, dtype=np.uint16):
    return np.random.default_rng(n).poisson(0.3, (n, 32, 32)).astype(dtype)


def write(path, frames, positions=None, lost=(), filters="BSLZ4", chunk=1):
    with h5py.File(path, "w", libver="latest") as f:
        data = f.create_dataset(
            "/entry/data/data", frames.shape, frames.dtype, chunks=(chunk, 32, 32), **FILTERS[filters]
        )
        for i in set(range(len(frames))) - set(lost):
            data[i] = frames[i]
        if positions is not None:
            f["/entry/instrument/NDAttributes/ScanX"], f["/entry/instrument/NDAttributes/ScanY"] = positions.T
    return path


def documents(path, n, metadata, batch=7, positions=True):
    """The documents of a run whose `n` frames arrive in batches, with or without positions."""
    run = event_model.compose_run(metadata=metadata)
    yield "start", run.start_doc
    datasets = {
        "detector": ("/entry/data/data", [32, 32]),
        "detector_x": ("/entry/instrument/NDAttributes/ScanX", []),
        "detector_y": ("/entry/instrument/NDAttributes/ScanY", []),
    }
    if not positions:
        del datasets["detector_x"], datasets["detector_y"]
    data_keys = {
        k: {"source": "sim", "external": "STREAM:", "dtype": "array", "shape": s} for k, (_, s) in datasets.items()
    }
    descriptor = run.compose_descriptor(name="primary", data_keys=data_keys)
    yield "descriptor", descriptor.descriptor_doc
    compose = {}
    for key, (dataset, _) in datasets.items():
        bundle = event_model.compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{path}",
            data_key=key,
            parameters={"dataset": dataset, "swmr": False, "chunk_shape": [1]},
            start=run.start_doc,
        )
        compose[key] = bundle.compose_stream_datum
        yield "stream_resource", bundle.stream_resource_doc
    for start in range(0, n, batch):
        indices = {"start": start, "stop": min(start + batch, n)}
        for key in datasets:
            numbers = {k: v + 1 for k, v in indices.items()}  # as the RunEngine counts events
            yield "stream_datum", compose[key](indices, seq_nums=numbers, descriptor=descriptor.descriptor_doc)


def play(callback, path, n, metadata, **options):
    for name, doc in documents(path, n, metadata, **options):
        callback(name, doc)
    callback.finished().result(30)
    return callback.images()


def centres(frames):
    frames = frames.astype(float)
    total = frames.sum(axis=(1, 2))
    return np.column_stack([(frames * X).sum(axis=(1, 2)), (frames * Y).sum(axis=(1, 2))]) / total[:, None]


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("threads", [1, 2])
def test_images_are_those_of_the_frames(tmp_path, filters, threads):
    frames = some_frames(NX * NY)
    path = write(tmp_path / "run.h5", frames, GRID.positions, filters=filters)
    images = play(Imaging(threads=threads), path, len(frames), RASTER)
    angle = 0.5 * np.hypot(X, Y)
    assert (images.image("sum") == frames.sum(axis=(1, 2)).reshape(NY, NX)).all()
    assert (images.image("bright_field") == frames[:, angle < 2].sum(axis=1).reshape(NY, NX)).all()
    assert (images.image("dark_field") == frames[:, angle >= 2].sum(axis=1).reshape(NY, NX)).all()
    com = 0.5 * centres(frames)
    assert images.image("com_x").ravel() == pytest.approx(com[:, 0], abs=1e-12)
    assert images.image("com_y").ravel() == pytest.approx(com[:, 1], abs=1e-12)
    assert images.com_unit == "mrad"
    assert (images.frames, images.lost, images.empty, images.outside) == (30, 0, 0, 0)


@pytest.mark.parametrize("filters", FILTERS)
def test_lost_frames_are_gaps_and_shift_nothing(tmp_path, filters):
    frames = some_frames(NX * NY)
    frames[11] = 0  # came, without a count
    lost = [0, 5, 6, 17, 29]
    path = write(tmp_path / "run.h5", frames, GRID.positions, lost, filters)
    callback = Imaging()
    images = play(callback, path, len(frames), RASTER)
    expected = frames.sum(axis=(1, 2)).astype(float)
    expected[lost] = np.nan
    assert np.array_equal(images.image("sum").ravel(), expected, equal_nan=True)
    assert np.flatnonzero(np.isnan(images.values["com_x"])).tolist() == sorted([*lost, 11])
    assert (images.frames, images.lost, images.empty, images.outside) == (30, 5, 1, 0)
    (row,) = [event["data"] for event in callback.stream.collect()]
    assert row["frame"][:25].tolist() == [i for i in range(30) if i not in lost]


def test_frames_on_the_way_back_and_positions_out_of_order_find_their_place(tmp_path):
    order = np.random.default_rng(1).permutation(NX * NY)
    positions = np.vstack([GRID.positions[order], [[-16.0, 0.0], [46.0, 20.0]]])
    frames = some_frames(len(positions))
    images = play(Imaging(), write(tmp_path / "run.h5", frames, positions), len(frames), RASTER)
    assert (images.values["sum"][order] == frames[:-2].sum(axis=(1, 2))).all()
    assert images.outside == 2


@pytest.mark.parametrize("positions", [True, False])
def test_frames_of_the_flyback_are_in_no_image_and_lost_ones_shift_nothing(tmp_path, positions):
    """The detector counts on while the probe flies back over the very points of the row that it has measured."""
    row, flyback = GRID.positions[:NX] - GRID.positions[0], 2
    there_and_back = np.vstack([row, row[[4, 1]]])
    where = np.vstack([there_and_back + start for start in GRID.positions[::NX]])
    frames = some_frames(NY * (NX + flyback))
    lost = [0, 7, 8, 9, 22, 39]  # of the first row's way back, and across the end of a row
    path = write(tmp_path / "run.h5", frames, where if positions else None, lost)
    callback = Imaging()
    images = play(callback, path, len(frames), {**RASTER, "flyback": flyback}, positions=positions)
    expected = frames.sum(axis=(1, 2)).astype(float)
    expected[lost] = np.nan
    expected = expected.reshape(NY, NX + flyback)[:, :NX]
    assert np.array_equal(images.image("sum"), expected, equal_nan=True)
    assert (images.frames, images.lost, images.outside, images.flyback) == (40, 6, 0, 7)
    (events,) = [event["data"] for event in callback.stream.collect()]
    measured = [i for i in range(40) if i not in lost and i % 8 < 6]
    assert events["frame"][: len(measured)].tolist() == measured and events["frame"][len(measured)] == -1
    assert events["x"][: len(measured)].tolist() == where[measured, 0].tolist()
    assert draw(images).get_suptitle() == "27 of 30 points, 6 frames lost, 7 frames on the way back"


def test_a_flyback_or_frames_without_a_place_are_refused(tmp_path):
    path = write(tmp_path / "run.h5", some_frames(4))
    metadata = {"optics": OPTICS}
    with pytest.raises(
        ValueError, match="flyback is 2 frames at the end of a row, but the run's metadata has no raster"
    ):
        play(Imaging(flyback=2), path, 4, metadata)
    with pytest.raises(ValueError, match=r"flyback is -1; allowed is a number of frames .*from 0"):
        play(Imaging(), path, 4, {**RASTER, "flyback": -1})
    with pytest.raises(ValueError, match=r"neither their positions \(detector_x, detector_y\) nor a raster"):
        play(Imaging(), path, 4, metadata, positions=False)


def test_a_list_of_positions_has_a_value_each_and_nan_for_a_lost_one(tmp_path):
    positions = np.random.default_rng(2).uniform(0, 9, (20, 2))
    frames = some_frames(20)
    path = write(tmp_path / "run.h5", frames, positions, lost=[3])
    images = play(Imaging(), path, 20, {"optics": OPTICS, "field_of_view": FIELD})
    assert images.grid is None
    assert images.positions.tolist() == positions.tolist()
    assert np.flatnonzero(np.isnan(images.image("magnitude"))).tolist() == [3]
    assert images.values["sum"][4:].tolist() == frames[4:].sum(axis=(1, 2)).tolist()


def test_images_grow_with_the_scan(tmp_path):
    frames = some_frames(NX * NY)
    callback = Imaging()
    path = write(tmp_path / "run.h5", frames, GRID.positions)
    for name, doc in documents(path, 14, RASTER):
        callback(name, doc)
    callback.finished().result(30)
    known = np.isfinite(callback.images().image("sum").ravel())
    assert known.tolist() == [True] * 14 + [False] * 16


def test_rows_of_the_stream_hold_many_frames_and_nothing_is_lost_between_them(tmp_path):
    n = 2 * ROW + 9
    frames = some_frames(n, np.uint8)
    positions = np.column_stack([np.arange(n) * 0.5, np.arange(n) * -0.25])
    mask = np.random.default_rng(0).random((32, 32)) < 0.2
    weights = np.random.default_rng(1).normal(size=(32, 32))
    masks = {"few": mask, "weighted": weights, "ring": Annulus(1.0, 6.0)}
    callback = Imaging(masks, centre=(15.5, 14.5))
    path = write(tmp_path / "run.h5", frames, positions, chunk=8)
    play(callback, path, n, {"optics": OPTICS})
    rows = [event["data"] for event in callback.stream.collect()]
    assert len(rows) == 3
    keys = callback.stream.describe_collect()
    for row in rows:
        assert {k: (list(v.shape), v.dtype.str) for k, v in row.items()} == {
            k: (v["shape"], v["dtype_numpy"]) for k, v in keys.items()
        }
    data = {k: np.concatenate([row[k] for row in rows]) for k in keys}
    assert data["frame"].tolist() == [*range(n), *[-1] * (ROW - 9)]
    assert all(np.isnan(data[k][n:]).all() for k in keys if k != "frame")
    assert data["x"][:n].tolist() == positions[:, 0].tolist()
    assert data["few"][:n].tolist() == frames[:, mask].sum(axis=1).tolist()
    assert data["weighted"][:n] == pytest.approx((frames * weights).sum(axis=(1, 2)), abs=1e-10)
    assert data["com_y"][:n] == pytest.approx(0.5 * (centres(frames)[:, 1] + 1.0), abs=1e-12)
    assert (keys["com_x"]["units"], keys["x"]["units"]) == ("mrad", "nm")


@pytest.mark.parametrize("rotation", [0.0, 0.3])
def test_the_deflection_of_each_frame_has_a_magnitude_and_a_direction_in_the_axes_of_the_scan(tmp_path, rotation):
    frames = np.zeros((5, 32, 32), np.uint16)
    at = np.array([[3, 4], [-3, 4], [0, -7], [12, -5]])  # of the one count of a frame, from pixel 16, 16
    for frame, (x, y) in zip(frames, at, strict=False):
        frame[16 + y, 16 + x] = 9
    path = write(tmp_path / "run.h5", frames, np.zeros((5, 2)))  # the last frame is empty
    callback = Imaging(rotation=rotation, centre=(16.0, 16.0))
    play(callback, path, 5, {"optics": OPTICS})
    (row,) = [event["data"] for event in callback.stream.collect()]
    assert row["com_x"][:4].tolist() == (0.5 * at[:, 0]).tolist()
    # Rounding of the rotation is all that the tolerance allows.
    assert row["magnitude"][:4] == pytest.approx([2.5, 2.5, 3.5, 6.5], abs=1e-12)
    expected = np.arctan2(at[:, 1], at[:, 0]) + rotation
    assert row["direction"][:4] == pytest.approx(expected, abs=1e-12)
    assert np.isnan([row["magnitude"][4], row["direction"][4]]).all()
    keys = callback.stream.describe_collect()
    assert (keys["magnitude"]["units"], keys["direction"]["units"]) == ("mrad", "rad")
    assert callback.maps is None


def test_divergence_and_curl_are_maps_of_the_raster(tmp_path):
    """The count moves by 3 pixels a step of 10 nm along x and by -1 along y, its y by 2 along x: all differences are
    those numbers, wherever they are taken."""
    frames = np.zeros((NY, NX, 32, 32), np.uint16)
    for j in range(NY):
        for i in range(NX):
            frames[j, i, 8 + 2 * i, 8 + 3 * i - j] = 5
    path = write(tmp_path / "run.h5", frames.reshape(-1, 32, 32), GRID.positions, lost=[0, 2, 6, 28])
    callback = Imaging()
    images = play(callback, path, NX * NY, RASTER)
    assert callback.maps is not None
    (row,) = [event["data"] for event in callback.maps.collect()]
    keys = callback.maps.describe_collect()
    assert {name: (key["shape"], key["dtype_numpy"], key["units"]) for name, key in keys.items()} == dict.fromkeys(
        ("divergence", "curl"), ([NY, NX], "<f8", "mrad/nm")
    )
    gaps = np.zeros((NY, NX), bool)
    gaps.ravel()[[0, 2, 6, 28, 1, 29]] = True  # points 1 and 29 have no neighbour along x
    dx, dy = 10.0, 5.0
    for name, expected in {"divergence": 0.5 * 3 / dx, "curl": 0.5 * (2 / dx + 1 / dy)}.items():
        assert np.isnan(row[name]).tolist() == gaps.tolist()
        assert row[name][~gaps] == pytest.approx(expected, abs=1e-12)  # rounding of a few float64
        assert np.array_equal(row[name], images.image(name), equal_nan=True)


def test_without_optics_the_centre_of_mass_is_in_pixels_and_angles_are_refused(tmp_path):
    frames = some_frames(4)
    positions = np.zeros((4, 2))
    callback = Imaging({"all": np.ones((32, 32), bool)})
    images = play(callback, write(tmp_path / "run.h5", frames, positions), 4, {})
    assert images.values["com_x"] == pytest.approx(centres(frames)[:, 0], abs=1e-12)
    assert images.com_unit == callback.stream.describe_collect()["com_x"]["units"] == "pixels"
    with pytest.raises(ValueError, match="angles cannot be told from pixels"):
        Imaging()("start", event_model.compose_run().start_doc)
    given = Imaging(optics=Optics(**OPTICS))
    assert play(given, tmp_path / "run.h5", 4, {}).com_unit == "mrad"


def test_a_second_run_begins_anew(tmp_path):
    first = write(tmp_path / "first.h5", some_frames(NX * NY), GRID.positions)
    frames = some_frames(9)
    second = write(tmp_path / "second.h5", frames, GRID.positions[:9])
    callback = Imaging()
    for name, doc in documents(first, NX * NY, RASTER):  # aborted: nobody waits for it
        callback(name, doc)
    images = play(callback, second, 9, RASTER)
    assert images.frames == 9
    assert images.values["sum"][:9].tolist() == frames.sum(axis=(1, 2)).tolist()
    assert np.isnan(images.values["sum"][9:]).all()
    rows = [event["data"] for event in callback.stream.collect()]
    assert [row["frame"][:9].tolist() for row in rows] == [list(range(9))]


def test_what_goes_wrong_fails_the_wait_not_the_document(tmp_path):
    path = write(tmp_path / "run.h5", some_frames(4), np.zeros((4, 2)))
    callback = Imaging({"small": np.ones((16, 16), bool)})
    for name, doc in documents(path, 4, RASTER):
        callback(name, doc)
    with pytest.raises(ValueError, match=r"mask 'small' is \(16, 16\)"):
        callback.finished().result(30)


def test_names_of_other_columns_are_refused():
    for name in ("sum", "direction", "curl"):
        with pytest.raises(ValueError, match=f"masks cannot be called {name}"):
            Imaging({name: np.ones((4, 4), bool)})


@pytest.mark.parametrize("metadata", [RASTER, {"optics": OPTICS}], ids=["raster", "list"])
def test_pictures_say_what_they_show(tmp_path, metadata):
    frames = some_frames(NX * NY)
    callback = Imaging()
    images = play(callback, write(tmp_path / "run.h5", frames, GRID.positions, lost=[2]), 30, metadata)
    png = callback.write_png(tmp_path / "images.png")
    assert png.read_bytes().startswith(b"\x89PNG")
    figure = draw(images)
    titles = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    expected = ["Sum", "bright field", "dark field", "Centre of mass, x", "Centre of mass, y"]
    expected += ["Deflection, magnitude", "Deflection, direction"]
    assert list(titles) == expected + (["Divergence", "Curl"] if "shape" in metadata else [])
    assert all((axes.get_xlabel(), axes.get_ylabel()) == ("x [nm]", "y [nm]") for axes in titles.values())
    drawn = [(a.images or a.collections)[0] for a in titles.values()]
    assert drawn[3].get_cmap().name == "RdBu_r"
    assert drawn[3].get_clim()[0] == -drawn[3].get_clim()[1]
    assert (drawn[6].get_cmap().name, drawn[6].get_clim()) == ("twilight", (-np.pi, np.pi))
    assert "1 frames lost" in figure.get_suptitle()
    labels = {bar.get_ylabel() for axes in titles.values() for bar in axes.child_axes}
    assert {"electrons", "mrad", "rad"} <= labels
    if "shape" in metadata:
        assert "mrad/nm" in labels
        assert [text.get_text() for text in titles["Sum"].texts] == ["10 nm"]


@pytest.mark.parametrize("metadata", [RASTER, {"optics": OPTICS}], ids=["raster", "list"])
def test_a_picture_brought_up_to_date_is_the_one_drawn_anew(tmp_path, metadata):
    path = write(tmp_path / "run.h5", some_frames(NX * NY), GRID.positions)
    figure = draw(play(Imaging(), path, 9, metadata))
    images = play(Imaging(), path, NX * NY, metadata)
    update(images, figure)
    for axes, anew in zip(figure.axes, draw(images).axes, strict=True):
        for old, new in zip((*axes.images, *axes.collections), (*anew.images, *anew.collections), strict=True):
            assert np.array_equal(np.ma.filled(old.get_array(), np.nan), np.ma.filled(new.get_array(), np.nan), True)
            assert old.get_clim() == new.get_clim()
        for limits in ("get_xlim", "get_ylim"):
            assert getattr(axes, limits)() == pytest.approx(getattr(anew, limits)(), rel=0.02)
    assert figure.get_suptitle().startswith("30 ")


def test_the_line_above_the_pictures_stays_above_them(tmp_path):
    path = write(tmp_path / "run.h5", some_frames(NX * NY), GRID.positions)
    figure = draw(play(Imaging(), path, 9, RASTER))
    figure.canvas.draw()  # as a window does, and then leaves the layout as it is
    figure.set_layout_engine("none")
    update(play(Imaging(), path, NX * NY, RASTER), figure)
    figure.canvas.draw()
    (summary,) = [text for text in figure.texts if text.get_text() == figure.get_suptitle()]
    titles = [axes.title.get_window_extent() for axes in figure.axes if axes.get_title()]
    assert summary.get_window_extent().y0 >= max(title.y1 for title in titles)


def test_frames_that_the_streams_recorder_missed_are_lost(tmp_path):
    frames = some_frames(NX * NY)
    made = Series(1, (32, 32), frames.dtype, len(frames))
    first = compress(frames[0])
    file = SeriesFile(tmp_path / "run.h5", made, first, Context(GRID.positions, Optics(**OPTICS)))
    file.write(
        Frames.of([Frame(1, i, (compress(frames[i]),), 0.0, 0.0, 0.0) for i in range(30) if i not in (4, 28, 29)])
    )
    file.finish([range(4, 5), range(28, 30)], 30)
    images = play(Imaging(), tmp_path / "run.h5", 30, RASTER)
    expected = frames.sum(axis=(1, 2)).astype(float)
    expected[[4, 28, 29]] = np.nan
    assert np.array_equal(images.values["sum"], expected, equal_nan=True)
    assert images.lost == 3


def test_pictures_of_nothing_yet_can_be_drawn():
    callback = Imaging()
    callback("start", event_model.compose_run(metadata=RASTER).start_doc)
    images = callback.images()
    draw(images).canvas.draw()
    assert colours("sum", images.image("sum")) == {"cmap": "gray", "vmin": 0.0, "vmax": 1.0}
    assert unit(images, "curl") == "mrad/nm"


def test_without_a_display_there_is_no_window(monkeypatch, caplog):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND"):
        monkeypatch.delenv(name, raising=False)
    callback = Imaging(window=True)
    callback("start", event_model.compose_run(metadata=RASTER).start_doc)
    assert "there is no display" in caplog.text
    callback.close()


def test_the_window_draws_and_leaves_no_process(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    callback = Imaging()
    callback("start", event_model.compose_run(metadata=RASTER).start_doc)
    window = LiveWindow(callback.images)
    assert window.show() and window.shown
    process = window._process
    assert isinstance(process, subprocess.Popen)
    deadline = time.monotonic() + 30
    while not window.pictures and time.monotonic() < deadline:
        time.sleep(0.05)
    window.close()
    assert window.pictures == 1
    assert process.returncode == 0


def test_the_detectors_turn_and_mirror_are_taken_out_of_deflections(tmp_path):
    frames = some_frames(NX * NY)
    path = write(tmp_path / "run.h5", frames, GRID.positions)
    com = 0.5 * centres(frames)
    c, s = np.cos(0.4), np.sin(0.4)
    x, y = com[:, 0], -com[:, 1]
    callback = Imaging(rotation=0.4, mirrored=True)
    images = play(callback, path, len(frames), RASTER)
    assert images.image("dpc_x").ravel() == pytest.approx(c * x - s * y, abs=1e-12)
    assert images.image("dpc_y").ravel() == pytest.approx(s * x + c * y, abs=1e-12)
    (row,) = [event["data"] for event in callback.stream.collect()]
    told = row["magnitude"][:30] * np.exp(1j * row["direction"][:30])
    assert told == pytest.approx(c * x - s * y + 1j * (s * x + c * y), abs=1e-12)
    assert images.image("com_y").ravel() == pytest.approx(com[:, 1], abs=1e-12)
