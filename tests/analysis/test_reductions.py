"""The kernels against numpy's own arithmetic, exactly; and on patterns whose centre of mass is known."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesky_edgestem.analysis.reductions import Reducer, check_frames
from bluesky_edgestem.analysis.sparse_masks import Annulus

TYPES = (np.uint8, np.uint16, np.uint32)


def exact(frames, mask):
    """Sums, and counts of `mask`, in integers without bounds."""
    n, ny, nx = frames.shape
    whole = frames.astype(object)
    y, x = (c.astype(object) for c in np.mgrid[:ny, :nx])
    parts = (whole, whole * x, whole * y, whole * mask.astype(object))
    return [[int(a) for a in part.reshape(n, -1).sum(axis=1)] if n else [] for part in parts]


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(TYPES),
    n=st.integers(0, 5),
    ny=st.integers(1, 40),
    nx=st.integers(1, 70),
    full=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
    threads=st.sampled_from([1, 2, 3]),
)
def test_sums_moments_and_masks_are_those_of_exact_arithmetic(dtype, n, ny, nx, full, seed, threads):
    rng = np.random.default_rng(seed)
    top = np.iinfo(dtype).max
    frames = rng.integers(0, top, (n, ny, nx), dtype=dtype, endpoint=True)
    if full:
        frames[:] = top
    mask, weights = rng.random((ny, nx)) < 0.4, rng.normal(size=(ny, nx))
    found = Reducer((ny, nx), {"weights": weights, "mask": mask}, threads).reduce(frames)
    total, moment_x, moment_y, counted = exact(frames, mask)
    assert found.total.tolist() == total
    assert found.moments[:, 0].tolist() == moment_x
    assert found.moments[:, 1].tolist() == moment_y
    assert found.virtual["mask"].tolist() == counted
    assert list(found.virtual) == ["weights", "mask"]
    expected = (frames * weights).sum(axis=(1, 2))
    assert np.abs(found.virtual["weights"] - expected).max(initial=0) <= 1e-12 * top * ny * nx


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("n", [257, 258, 512])
def test_a_saturated_frame_overflows_nothing(dtype, n):
    frame = np.full((1, n, n), np.iinfo(dtype).max, dtype)
    found = Reducer((n, n), {"all": np.ones((n, n), bool)}).reduce(frame)
    top = int(np.iinfo(dtype).max)
    assert found.total.tolist() == found.virtual["all"].tolist() == [n * n * top]
    assert found.moments.tolist() == [[n * top * (n * (n - 1) // 2)] * 2]
    assert found.centre_of_mass() == pytest.approx(np.zeros((1, 2)), abs=1e-12)


def test_frames_are_neither_copied_nor_changed():
    frames = np.random.default_rng(0).integers(0, 99, (40, 64, 64)).astype(np.uint16)
    before = frames.copy()
    frames.flags.writeable = False
    reducer = Reducer((64, 64), {"disk": Annulus(0, 9).mask((64, 64), 0.5), "ramp": np.ones((64, 64))}, threads=2)
    reducer.reduce(frames[:1])
    tracemalloc.start()
    reducer.reduce(frames)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < frames.nbytes / 10
    assert (frames == before).all()


@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.25, -1.5), (-4.0, 6.75)])
def test_the_centre_of_mass_of_a_shifted_disk_is_its_shift(shift):
    n, fine = 64, 16
    # The disk's pixels as shares of fine x fine points: their mean is the disk's centre.
    points = (np.arange(n * fine) + 0.5) / fine - 0.5
    centre = (n - 1) / 2 + np.asarray(shift)
    disk = np.hypot(points - centre[0], points[:, None] - centre[1]) < 12.0
    frame = disk.reshape(n, fine, n, fine).sum(axis=(1, 3)).astype(np.uint16)[None]
    assert Reducer((n, n)).reduce(frame).centre_of_mass()[0] == pytest.approx(shift, abs=2e-3)


def test_friedel_pairs_pull_nowhere_and_an_unequal_pair_by_its_difference():
    frame = np.zeros((1, 33, 33), np.uint8)
    for dx, dy in ((5, 2), (-3, 7), (0, 11)):
        frame[0, 16 + dy, 16 + dx] = frame[0, 16 - dy, 16 - dx] = 40
    reducer = Reducer((33, 33))
    assert reducer.reduce(frame).centre_of_mass().tolist() == [[0.0, 0.0]]
    frame[0, 16 + 2, 16 + 5] += 60
    assert reducer.reduce(frame).centre_of_mass()[0] == pytest.approx([5 * 60 / 300, 2 * 60 / 300], abs=1e-14)


def test_an_empty_frame_has_no_centre_of_mass_and_is_counted():
    frames = np.zeros((3, 8, 8), np.uint32)
    frames[1, 2, 5] = 7
    found = Reducer((8, 8)).reduce(frames)
    assert found.empty == 2
    assert np.isnan(found.centre_of_mass()[[0, 2]]).all()
    assert found.centre_of_mass((0.0, 0.0))[1].tolist() == [5.0, 2.0]


def test_an_annulus_counts_the_pixels_between_its_angles():
    mask = Annulus(2.0, 4.0, (0.5, -0.5)).mask((40, 48), 0.5)
    y, x = np.mgrid[:40, :48]
    angle = np.hypot((x - 23.5) * 0.5 - 0.5, (y - 19.5) * 0.5 + 0.5)
    assert (mask == ((angle >= 2.0) & (angle < 4.0))).all()
    assert mask.sum() * 0.25 == pytest.approx(np.pi * (16 - 4), rel=0.05)


def test_frames_that_are_read_block_by_block_give_the_same():
    frames = np.random.default_rng(3).integers(0, 999, (37, 200, 200)).astype(np.uint16)
    reducer = Reducer((200, 200), {"disk": Annulus(0, 9).mask((200, 200), 0.3)}, threads=2)

    def read(number, frame):
        frame[:] = frames[number]

    read_in, whole = reducer.reduce_read(37, frames.dtype, read), reducer.reduce(frames)
    assert (read_in.total == whole.total).all()
    assert (read_in.moments == whole.moments).all()
    assert (read_in.virtual["disk"] == whole.virtual["disk"]).all()


@pytest.mark.parametrize(
    ("frames", "error", "says"),
    [
        (np.zeros((2, 8, 8), np.float32), TypeError, "uint8, uint16, uint32"),
        (np.zeros((2, 8, 8), np.int16), TypeError, "<i2"),
        (np.zeros((2, 8, 8), ">u2"), TypeError, "native byte order"),
        (np.zeros((2, 8, 9), np.uint8), ValueError, r"\(2, 8, 9\); allowed is \(n, 8, 8\)"),
        (np.zeros((8, 8), np.uint8), ValueError, r"allowed is \(n, 8, 8\)"),
        (np.zeros((2, 8, 16), np.uint8)[:, :, ::2], ValueError, "row by row"),
    ],
)
def test_other_frames_are_refused(frames, error, says):
    with pytest.raises(error, match=says):
        Reducer((8, 8)).reduce(frames)


def test_frames_whose_moments_could_wrap_are_refused():
    huge = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint32), (1, 2048, 2048), (0, 0, 0))
    with pytest.raises(ValueError, match="row by row"):
        check_frames(huge, (2048, 2048))
    with pytest.raises(ValueError, match="exceed 64 bits"):
        check_frames(np.empty((0, 2048, 2048), np.uint32), (2048, 2048))


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Reducer((8, 8), {"bf": np.ones((8, 9), bool)}), ValueError, r"mask 'bf' is \(8, 9\)"),
        (lambda: Reducer((8, 8), {"bf": np.ones((8, 8), int)}), TypeError, "bool"),
        (lambda: Reducer((8, 8), {"bf": np.full((8, 8), np.nan)}), ValueError, "not finite"),
        (lambda: Reducer((8, 8), threads=0), ValueError, "at least 1 thread"),
        (lambda: Annulus(3.0, 3.0), ValueError, "inner < outer"),
        (lambda: Annulus(-1.0, 3.0), ValueError, "0 <= inner"),
        (lambda: Annulus(90.0, 91.0).mask((8, 8), 0.5), ValueError, "none of the 8 x 8 pixels"),
    ],
)
def test_masks_that_make_no_sense_are_refused(make, error, says):
    with pytest.raises(error, match=says):
        make()
