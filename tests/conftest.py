"""Students of random whole numbers, and builds of them: an inference board without training; and Ctrl-C as it is."""

import signal
from dataclasses import replace

import numpy as np
import pytest

from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.fpga import fixed_point, golden
from bluesky_edgestem.fpga import student as student_module
from bluesky_edgestem.fpga.frontend import CORE, Frontend
from bluesky_edgestem.fpga.student import OUTPUT_BITS, OUTPUT_FRACTION, OUTPUTS, Layer, Student


@pytest.fixture(scope="session", autouse=True)
def python_interrupts():
    """Ctrl-C is what it is in a shell; a worker of pytest-xdist ignores it, and so would the processes it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def random_student(
    frontend: Frontend, filters: int = 6, hidden: int = 8, filter_bits: int = 3, seed: int = 0
) -> Student:
    """One whose sums, quotients and activations all use their range, and saturate now and then."""
    rng = np.random.default_rng(seed)
    most = 2 ** (filter_bits - 1) - 1
    layers = (
        Layer(
            rng.integers(-15, 16, (filters, hidden)).astype(np.int32), 1 | rng.integers(-999, 999, hidden), 2, 6, 6,
            False,
        ),
        Layer(
            rng.integers(-15, 16, (hidden, len(OUTPUTS))).astype(np.int32), 1 | rng.integers(-999, 999, len(OUTPUTS)),
            3, OUTPUT_BITS, OUTPUT_FRACTION, True,
        ),
    )  # fmt: skip
    weights = rng.integers(-most, most + 1, (CORE**2, filters)).astype(np.int32)
    normaliser = np.where(frontend.outer, rng.choice([1, 1, 1, 1, -1], CORE**2), 0).astype(np.int32)
    optics = Optics(80.0, 2.0, 64 / frontend.n_pixels, frontend.n_pixels)
    return Student(
        frontend, optics, ("MoS2", "WS2"), weights, normaliser, 1, tuple(k % 3 for k in range(filters)), 6, layers
    )


def some_frames(frontend: Frontend, each: int, seed: int = 0) -> np.ndarray:
    """Sparse, ordinary, bright, arbitrary, empty and saturated frames, `each` of the first four."""
    rng, side, most = np.random.default_rng(seed), frontend.n_pixels, 2**frontend.pixel_bits - 1
    kinds = [rng.poisson(rate, (each, side, side)) for rate in (0.02, 1.0, 50.0)]
    kinds += [rng.integers(0, most + 1, (each, side, side)), np.zeros((1, side, side)), np.full((1, side, side), most)]
    return np.concatenate(kinds).clip(0, most).astype(np.uint8 if frontend.pixel_bits == 8 else np.uint16)


@pytest.fixture(scope="session")
def make_student():
    """Function that gives a student of random numbers, of a front end."""
    return random_student


@pytest.fixture(scope="session")
def make_frames():
    """Function that gives frames of all kinds, for a front end."""
    return some_frames


@pytest.fixture
def make_build():
    """Function that writes the folder of a build, and gives its student: what a board's IOC loads."""

    def write(folder, frontend: Frontend, seed: int = 0) -> Student:
        # Known as long as its standard deviation is below 1: some of its random results are, some are not.
        student = replace(random_student(frontend, seed=seed), card={"strain_sd": 1.0})
        frames = some_frames(frontend, 3)
        student.save(folder / student_module.NAME)
        fixed_point.DenseLayers.of(student).save(folder / fixed_point.NAME)
        golden.GoldenFrames(student.hash, frames, *student.outputs(frames)).save(folder / golden.NAME)
        return student

    return write
