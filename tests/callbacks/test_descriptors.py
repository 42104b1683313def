"""Frames that a run announces become rows, in order, whatever the order of its stream documents."""

import subprocess
import sys
from dataclasses import replace

import event_model
import h5py
import hdf5plugin
import numpy as np
import pytest

from bluesky_edgestem import callbacks
from bluesky_edgestem.analysis import crystal_networks
from bluesky_edgestem.analysis.descriptor import FeatureDescriptors
from bluesky_edgestem.analysis.networks import DescriptorNetwork
from bluesky_edgestem.callbacks.descriptors import THICK, Descriptors

OPTICS = {"energy_keV": 80.0, "semiangle_mrad": 2.0, "pixel_mrad": 0.5, "n_pixels": 32}


class MeanAsStrain:
    """A source whose exx is the mean of the frame, so that each row tells which frame it came from."""

    def predict(self, frames, optics):
        assert optics.n_pixels == 32
        n = len(frames)
        strain = np.zeros((n, 3))
        strain[:, 0] = frames.mean(axis=(1, 2))
        return FeatureDescriptors(
            strain=strain,
            covariance=np.tile(np.diag([4e-6, 1e-6, 9e-6]), (n, 1, 1)),
            rotation=np.full(n, 0.1),
            rotation_sd=np.full(n, 0.01),
            phases=("MoS2", "WS2"),
            phase_probability=np.tile([0.25, 0.75], (n, 1)),
            flagged=np.array([""] * n),
        )


class Broken:
    def predict(self, frames, optics):
        raise RuntimeError("the network's weights have gone")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a file.h5"
    with h5py.File(path, "w", libver="latest") as f:
        frames = np.arange(6, dtype=np.uint16)[:, None, None] * np.ones((1, 32, 32), np.uint16)
        f.create_dataset("/entry/data/data", data=frames, chunks=(1, 32, 32), **hdf5plugin.Bitshuffle(cname="lz4"))
        f["/entry/instrument/NDAttributes/ScanX"] = np.arange(6) * 10.0
        f["/entry/instrument/NDAttributes/ScanY"] = -np.arange(6) * 1.0
    return path


def documents(path, batches, order=("detector", "detector_x", "detector_y")):
    """The start, resource and datum documents of a run whose frames arrive in `batches` of (start, stop)."""
    run = event_model.compose_run(metadata={"optics": OPTICS})
    yield "start", run.start_doc
    keys = {
        "detector": ("/entry/data/data", {"dtype": "array", "shape": [32, 32]}),
        "detector_x": ("/entry/instrument/NDAttributes/ScanX", {"dtype": "number", "shape": []}),
        "detector_y": ("/entry/instrument/NDAttributes/ScanY", {"dtype": "number", "shape": []}),
    }
    data_keys = {k: {"source": "sim", "external": "STREAM:", **v} for k, (_, v) in keys.items()}
    descriptor = run.compose_descriptor(name="primary", data_keys=data_keys)
    yield "descriptor", descriptor.descriptor_doc
    compose = {}
    for key in order:
        bundle = event_model.compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{str(path).replace(' ', '%20')}",
            data_key=key,
            parameters={"dataset": keys[key][0], "swmr": False, "chunk_shape": [1]},
            start=run.start_doc,
        )
        compose[key] = bundle.compose_stream_datum
        yield "stream_resource", bundle.stream_resource_doc
    for start, stop in batches:
        for key in order:
            indices = {"start": start, "stop": stop}
            numbers = {k: v + 1 for k, v in indices.items()}  # as the RunEngine counts events
            yield "stream_datum", compose[key](indices, seq_nums=numbers, descriptor=descriptor.descriptor_doc)


@pytest.mark.parametrize("order", [("detector", "detector_x", "detector_y"), ("detector_y", "detector", "detector_x")])
def test_each_frame_is_read_once_with_its_position(file, order):
    callback = Descriptors(MeanAsStrain())
    for name, doc in documents(file, [(0, 2), (2, 6)], order):
        callback(name, doc)
    callback.finished().result(10)
    rows = [event["data"] for event in callback.stream.collect()]
    assert [row["frame"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert [row["exx"] for row in rows] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert [(row["x"], row["y"]) for row in rows] == [(10.0 * i, -1.0 * i) for i in range(6)]
    assert {row["phase"] for row in rows} == {"WS2"}
    assert rows[0]["phase_probability"] == 0.75
    assert (rows[0]["exx_sd"], rows[0]["eyy_sd"], rows[0]["exy_sd"]) == pytest.approx((2e-3, 1e-3, 3e-3), abs=1e-15)
    assert list(callback.stream.collect()) == []


@pytest.mark.parametrize("batches", [[(0, 20)], [(0, 1), (1, 9), (9, 10), (10, 20)], [(i, i + 1) for i in range(20)]])
def test_frames_are_read_in_the_same_portions_however_they_arrive(tmp_path, batches):
    path = tmp_path / "twenty.h5"
    with h5py.File(path, "w") as f:
        f["/entry/data/data"] = np.arange(20, dtype=np.uint16)[:, None, None] * np.ones((1, 32, 32), np.uint16)
        for axis in "XY":
            f[f"/entry/instrument/NDAttributes/Scan{axis}"] = np.zeros(20)
    portions = []

    class Watched(MeanAsStrain):
        def predict(self, frames, optics):
            portions.append(frames[:, 0, 0].tolist())
            return super().predict(frames, optics)

    callback = Descriptors(Watched())
    for name, doc in documents(path, batches):
        callback(name, doc)
    callback.finished().result(10)
    assert portions == [list(range(8)), list(range(8, 16)), list(range(16, 20))]


def test_rows_have_exactly_the_declared_columns_and_types(file):
    callback = Descriptors(MeanAsStrain())
    for name, doc in documents(file, [(0, 1)]):
        callback(name, doc)
    callback.finished().result(10)
    (event,) = callback.stream.collect()
    kinds = {"number": float, "integer": int, "string": str}
    columns = callback.stream.describe_collect()
    assert {k: type(v) for k, v in event["data"].items()} == {k: kinds[v["dtype"]] for k, v in columns.items()}


def test_a_source_that_fails_fails_the_wait_not_the_document(file):
    callback = Descriptors(Broken())
    for name, doc in documents(file, [(0, 1)]):
        callback(name, doc)
    with pytest.raises(RuntimeError, match="the network's weights have gone"):
        callback.finished().result(10)


def test_a_run_without_optics_is_refused():
    with pytest.raises(ValueError, match="no 'optics'"):
        Descriptors(MeanAsStrain())("start", event_model.compose_run().start_doc)


def test_frames_of_several_files_follow_one_another(file, tmp_path):
    second = tmp_path / "second.h5"
    second.write_bytes(file.read_bytes())
    callback = Descriptors(MeanAsStrain())
    one, other = (list(documents(path, [(0, 6)])) for path in (file, second))
    for name, doc in one:
        callback(name, doc)
    for name, doc in other:
        if name == "stream_datum":  # its sequence goes on where the first file's ended
            doc = {**doc, "seq_nums": {k: v + 6 for k, v in doc["seq_nums"].items()}}
        if name.startswith("stream"):
            callback(name, doc)
    callback.finished().result(10)
    rows = [event["data"] for event in callback.stream.collect()]
    assert [row["frame"] for row in rows] == list(range(12))
    assert [row["exx"] for row in rows] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0] * 2


def test_a_path_is_the_networks_weights(file, tmp_path, monkeypatch):
    monkeypatch.setattr(DescriptorNetwork, "pretrained", staticmethod({tmp_path / "own.pt": MeanAsStrain()}.get))
    callback = callbacks.Descriptors(network=str(tmp_path / "own.pt"))
    for name, doc in documents(file, [(0, 6)]):
        callback(name, doc)
    callback.finished().result(10)
    assert [event["data"]["exx"] for event in callback.stream.collect()] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_callbacks_are_imported_when_they_are_asked_for():
    assert all(getattr(callbacks, name).__name__ == name for name in callbacks.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = callbacks.Nothing
    # Who wants one of them does not pay for the compiled readers of another.
    code = "import sys, bluesky_edgestem.callbacks; sys.exit('numba' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Thick(MeanAsStrain):
    """The same of crystals whose thickness it tells."""

    tells_thickness = True

    def predict(self, frames, optics):
        found = super().predict(frames, optics)
        n = len(frames)
        return replace(
            found,
            thickness=np.full(n, 12.5),
            thickness_sd=np.full(n, 1.5),
            centre=np.tile([0.25, -0.5], (n, 1)),
            centre_sd=np.tile([0.01, 0.02], (n, 1)),
        )


def test_thickness_is_a_column_where_the_source_tells_it_and_the_centre_always(file) -> None:
    callback = Descriptors(Thick())
    for name, doc in documents(file, [(0, 6)]):
        callback(name, doc)
    callback.finished().result(timeout=20)
    row = next(iter(callback.stream.collect()))["data"]
    assert {k: row[k] for k in THICK} == {"thickness": 12.5, "thickness_sd": 1.5}
    centre = {"centre_x": 0.25, "centre_y": -0.5, "centre_x_sd": 0.01, "centre_y_sd": 0.02}
    assert {k: row[k] for k in centre} == centre
    callback = Descriptors(MeanAsStrain())
    assert "thickness" not in callback.stream.columns
    for name, doc in documents(file, [(0, 6)]):
        callback(name, doc)
    callback.finished().result(timeout=20)
    row = next(iter(callback.stream.collect()))["data"]
    assert all(np.isnan(row[k]) for k in centre)


def test_the_path_of_crystal_weights_gives_the_crystal_network() -> None:
    callback = Descriptors(crystal_networks.SHIPPED)
    assert isinstance(callback.network, crystal_networks.CrystalNetwork)
    assert callback.stream.columns["thickness"]["units"] == "nm"
