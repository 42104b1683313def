"""Frames that a run announces become strain, each where the probe was, relative to a reference that is settled once."""

from __future__ import annotations

import event_model
import h5py
import hdf5plugin
import numpy as np
import pytest

from bluesky_edgestem.analysis.affine_readings import AffineReadings
from bluesky_edgestem.analysis.crystals import deformation
from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.analysis.strain_autoencoder import StrainAutoencoder
from bluesky_edgestem.analysis.strain_frame import strain_maps
from bluesky_edgestem.callbacks import StrainMap
from bluesky_edgestem.callbacks.frame_rows import ROW
from bluesky_edgestem.callbacks.strain_pictures import draw
from bluesky_edgestem.geometry import FieldOfView, ScanGrid

NX, NY = 24, 16
FIELD = {"x0": -10.0, "y0": 0.0, "width": 46.0, "height": 30.0}
GRID = ScanGrid(FieldOfView(**FIELD), NX, NY)
# A square lattice of 0.3905 nm: 10 pixels of 1/39.05 Å each are its first order.
OPTICS = {"energy_keV": 80.0, "semiangle_mrad": 0.5, "pixel_mrad": Optics().wavelength * 1e3 / 39.05, "n_pixels": 32}
RASTER = {"field_of_view": FIELD, "shape": [NY, NX], "optics": OPTICS}
REGION = FieldOfView(-10.0, 0.0, 8.0, 30.0)

x, y = GRID.positions.T
STRAIN = 0.01 * np.column_stack([np.sin(x / 8), np.cos(y / 9), np.sin((x + y) / 12)])
ROTATION = 0.02 * np.cos(x / 10)
STRAIN[x < 0], ROTATION[x < 0] = 0.0, 0.0


class Reader:
    """Reads the strain that belongs to the number in a frame's first pixel."""

    base_vectors = np.array([[10.0, 0.0], [0.0, 10.0]])
    caution = ""

    def read(self, frames):
        numbers = frames[:, 0, 0].astype(int)
        found = deformation(STRAIN[numbers], ROTATION[numbers])
        n = len(numbers)
        flagged = np.where(numbers % 50 == 7, "no electrons: the frame is empty", "").astype(object)
        some = np.full((n, 2), 15.5)
        covariance = np.repeat(1e-8 * np.eye(4)[None], n, axis=0)
        return AffineReadings(np.swapaxes(np.linalg.inv(found), 1, 2), covariance, some, some, some[:, 0], flagged)


def write(path, lost=(), positions=True):
    frames = np.zeros((NX * NY, 32, 32), np.uint16)
    frames[:, 0, 0] = np.arange(NX * NY)
    with h5py.File(path, "w", libver="latest") as f:
        data = f.create_dataset(
            "/entry/data/data", frames.shape, frames.dtype, chunks=(1, 32, 32), **hdf5plugin.Bitshuffle(cname="lz4")
        )
        for i in set(range(len(frames))) - set(lost):
            data[i] = frames[i]
        if positions:
            f["/entry/instrument/NDAttributes/ScanX"], f["/entry/instrument/NDAttributes/ScanY"] = GRID.positions.T
    return path


def documents(path, metadata=RASTER, batch=100, positions=True):
    """The documents of a run whose frames arrive in batches."""
    run = event_model.compose_run(metadata=metadata)
    yield "start", run.start_doc
    names = {"detector": ("/entry/data/data", [32, 32])}
    if positions:
        names |= {f"detector_{a}": (f"/entry/instrument/NDAttributes/Scan{a.upper()}", []) for a in "xy"}
    keys = {k: {"source": "sim", "external": "STREAM:", "dtype": "array", "shape": s} for k, (_, s) in names.items()}
    descriptor = run.compose_descriptor(name="primary", data_keys=keys)
    yield "descriptor", descriptor.descriptor_doc
    compose = {}
    for key, (dataset, _) in names.items():
        bundle = event_model.compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{path}",
            data_key=key,
            parameters={"dataset": dataset, "swmr": False, "chunk_shape": [1]},
            start=run.start_doc,
        )
        compose[key] = bundle.compose_stream_datum
        yield "stream_resource", bundle.stream_resource_doc
    for start in range(0, NX * NY, batch):
        indices = {"start": start, "stop": min(start + batch, NX * NY)}
        numbers = {k: v + 1 for k, v in indices.items()}
        for key in names:
            yield "stream_datum", compose[key](indices, seq_nums=numbers, descriptor=descriptor.descriptor_doc)


def play(callback, path, **options):
    for name, doc in documents(path, **options):
        callback(name, doc)
    callback.finished().result(30)
    return callback.strain()


def rows(callback):
    """The stream's columns, without what fills the last row up, and its texts."""
    events = [event["data"] for event in callback.stream.collect()]
    arrays = {k: np.concatenate([e[k] for e in events]) for k in events[0] if not isinstance(events[0][k], str)}
    texts = {k: [e[k] for e in events] for k in events[0] if k not in arrays}
    return {k: v[arrays["frame"] >= 0] for k, v in arrays.items()}, texts


def test_strain_is_that_of_each_frame_and_in_the_stream(tmp_path):
    callback = StrainMap(Reader(), reference=REGION)
    maps = play(callback, write(tmp_path / "run.h5"))
    read = np.arange(NX * NY) % 50 != 7
    assert maps.strain[read] == pytest.approx(STRAIN[read], abs=1e-12)
    assert maps.image("rotation").ravel()[read] == pytest.approx(ROTATION[read], abs=1e-12)
    assert np.isnan(maps.image("exx").ravel()).tolist() == (~read).tolist()
    columns, texts = rows(callback)
    assert columns["frame"].tolist() == list(range(NX * NY))
    assert columns["exy"][read] == pytest.approx(STRAIN[read, 2], abs=1e-12)
    assert columns["eyy_sd"][read] == pytest.approx(maps.sd[read, 1])
    assert columns["cov_exx_rotation"][read] == pytest.approx(maps.covariance[read, 0, 3])
    assert columns["flagged"].tolist() == (~read).astype(int).tolist()
    assert np.column_stack([columns["x"], columns["y"]]) == pytest.approx(GRID.positions)
    assert texts["reference"] == ["the region x -10 to -2 nm, y 0 to 30 nm"] * 2
    assert texts["reasons"][1].startswith("257: no electrons: the frame is empty; 307: no electrons")
    (row,) = callback.maps.collect()
    assert row["data"].keys() == callback.maps.columns.keys()
    assert np.array_equal(row["data"]["exx"], maps.image("exx"), equal_nan=True)


def test_lost_frames_are_gaps_and_shift_nothing(tmp_path):
    lost = [3, 100, 101]
    callback = StrainMap(Reader(), reference=REGION)
    maps = play(callback, write(tmp_path / "run.h5", lost, positions=False), positions=False)
    gaps = sorted({*lost, *range(7, NX * NY, 50)})
    assert np.flatnonzero(np.isnan(maps.image("exx"))).tolist() == gaps
    there = np.delete(np.arange(NX * NY), gaps)
    assert maps.image("eyy").ravel()[there] == pytest.approx(STRAIN[there, 1], abs=1e-12)
    assert not {*lost} & {*rows(callback)[0]["frame"]}


def test_relative_to_a_lattice_rows_grow_while_the_scan_runs(tmp_path):
    callback = StrainMap(Reader(), reference="SrTiO3")
    path = write(tmp_path / "run.h5")
    for number, (name, doc) in enumerate(documents(path)):
        callback(name, doc)
        if number == 13:  # three batches of three keys: 300 frames
            break
    callback._worker.submit(lambda: None).result(30)
    columns, texts = rows(callback)
    assert len(columns["frame"]) == ROW
    assert texts["reference"] == ["the lattice of SrTiO3"]
    read = columns["flagged"] == 0
    assert columns["exx"][read] == pytest.approx(STRAIN[:ROW][read, 0], abs=1e-9)


def test_the_detectors_turn_is_taken_out(tmp_path):
    path = write(tmp_path / "run.h5")
    turned = play(StrainMap(Reader(), rotation=0.6, mirrored=True), path)
    plain = play(StrainMap(Reader()), path)
    direct = strain_maps(
        Reader().read(np.arange(NX * NY)[:, None, None]),
        GRID.positions,
        base_vectors=Reader.base_vectors,
        rotation=0.6,
        mirrored=True,
    )
    assert np.array_equal(turned.strain, direct.strain, equal_nan=True)
    # A mirror turns the sign of the rotation; dilatation is the same in all axes.
    assert turned.rotation == pytest.approx(-plain.rotation, abs=1e-4, nan_ok=True)
    assert turned.strain[:, :2].sum(1) == pytest.approx(plain.strain[:, :2].sum(1), abs=2e-4, nan_ok=True)


def test_a_run_without_a_reference_says_so_and_does_not_fail(tmp_path):
    callback = StrainMap(Reader(), reference=(500.0, 500.0, 1.0, 1.0))
    for name, doc in documents(write(tmp_path / "run.h5")):
        callback(name, doc)
    callback.finished().result(30)
    columns, texts = rows(callback)
    assert columns["flagged"].all() and np.isnan(columns["exx"]).all()
    assert texts["reference"][0].startswith("no reference: the region x 500 to 501 nm")
    with pytest.raises(ValueError, match="none that could be read"):
        callback.strain()


def test_what_cannot_be_is_refused_when_the_run_begins(tmp_path):
    path = tmp_path / "absent.h5"
    with pytest.raises(ValueError, match="is not that of graphene"):
        StrainMap(Reader(), reference="graphene")(*next(documents(path)))
    with pytest.raises(ValueError, match="needs the detector's calibration"):
        StrainMap(Reader(), reference="Si")(*next(documents(path, metadata={})))
    with pytest.raises(ValueError, match="unknown material 'unobtainium'"):
        StrainMap(Reader(), reference="unobtainium")
    with pytest.raises(ValueError, match=r"knows no lattice: not trained\. Train it on another scan"):
        StrainMap(StrainAutoencoder())
    for wrong, told in (
        ({"measure": "lagrangian"}, "measure is 'lagrangian'"),
        ({"rotation": 45}, "rotation is 45"),
        ({"reference": (1, 2)}, "a region is four numbers"),
    ):
        with pytest.raises(ValueError, match=told):
            StrainMap(Reader(), **wrong)
    with pytest.raises(ValueError, match="no frame has been read yet"):
        StrainMap(Reader()).strain()


def test_a_network_that_has_not_converged_is_warned_of_on_the_picture_too(tmp_path):
    reader = Reader()
    reader.caution = "the network has not converged, its strain is not to be trusted: disks still move"
    with pytest.warns(UserWarning, match="has not converged, its strain is not to be trusted: disks still move"):
        callback = StrainMap(reader)
    title = draw(play(callback, write(tmp_path / "run.h5"))).get_suptitle()
    assert title.startswith(f"{reader.caution}; Infinitesimal strain, axes of the scan, relative to the median")


@pytest.mark.parametrize("measure", ["infinitesimal", "Lagrangian"])
def test_the_picture_is_even_about_0_and_grey_where_nothing_is_known(tmp_path, measure):
    callback = StrainMap(Reader(), reference=REGION, measure=measure)
    maps = play(callback, write(tmp_path / "run.h5"))
    figure = draw(maps)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert len(panels) == 8
    symbol = {"infinitesimal": "\\varepsilon", "Lagrangian": "E"}[measure]
    assert [axes.get_title() for axes in panels[::3]] == [
        f"${symbol}_{{xx}}$ [%]",
        "Rotation [mrad]",
        f"Standard deviation of ${symbol}_{{xy}}$ [%]",
    ]
    (limits,) = {axes.images[0].get_clim() for axes in panels[:3]}
    assert limits[0] == -limits[1]
    for axes in panels[:3]:
        assert axes.images[0].origin == "lower"
    shown = panels[0].images[0].get_array()
    assert np.flatnonzero(np.ma.getmaskarray(shown)).tolist() == list(range(7, NX * NY, 50))
    # The region for reference is outlined.
    assert [line.get_xdata()[1] for line in panels[0].lines if line.get_linestyle() == "--"] == [-2.0]
    assert callback.write_png(tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")


def test_a_list_of_positions_is_drawn_as_dots_hollow_where_nothing_is_known(tmp_path):
    callback = StrainMap(Reader())
    maps = play(callback, write(tmp_path / "run.h5"), metadata={})
    assert maps.grid is None and callback.maps is None
    panel = draw(maps).axes[0]
    hollow, dots = panel.collections
    (bar,) = panel.texts
    drawn = np.ptp(panel.lines[0].get_xdata())
    assert bar.get_text() == f"{drawn:g} nm" and 0.1 < drawn / np.ptp(panel.get_xlim()) <= 0.25
    assert np.asarray(dots.get_array()) == pytest.approx(100 * maps.strain[maps.known, 0])
    assert len(hollow.get_offsets()) == np.count_nonzero(~maps.known)
