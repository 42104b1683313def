"""Run in .venv-py4dstem by benchmarks/strain_comparison.py: py4DSTEM and libertem-blobfinder find patterns' lattices.

Takes a folder with `frames.npy` (n, ny, nx), `probe.npy` (ny, nx), the beam without a specimen, in the frame's centre,
and `given.npz`: `lattice` (n, 2, 2), the unstrained crystal's reciprocal vectors in each frame as rows, x and y
[pixels]; `reflections` (m, 2) int, those that are bright; `radius` of the disks [pixels]. Each line of its standard
input is a JSON object: `peer`, its settings, `frames` (how many of them), `cores`, and `out`, a file for the
`lattice` and `centre` found; NaN where none was. It is answered by one: the time a pattern [s].

What a user would have to find is given: the probe, free of noise, and each frame's lattice without its strain. Found
are places of disks, and from these, by the peer's own weighted fit, the lattice; its indexing is done twice, the
second time from the first's result.
"""

import json
import os
import sys
import time
import warnings
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import numpy as np

MISSED = np.full((3, 2), np.nan)
HERE: dict = {}
"""The frames and what is given, for worker processes, which are forked."""


def indexed(xy: np.ndarray, start: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices (n, 2) of places (n, 2) in the lattice `start` (3, 2): origin and vectors; which are near one."""
    exact = (xy - start[0]) @ np.linalg.inv(start[1:])
    index = np.round(exact)
    return index.astype(int), np.hypot(*((exact - index) @ start[1:]).T) < limit


def py4dstem(i: int, settings: dict) -> np.ndarray:
    """Origin and two vectors (3, 2) of frame i."""
    from emdfile import PointList
    from py4DSTEM.braggvectors.diskdetection import find_Bragg_disks
    from py4DSTEM.process.strain.latticevectors import fit_lattice_vectors

    radius = HERE["radius"]
    found = find_Bragg_disks(
        HERE["frames"][i].astype(float) ** settings["power"],
        HERE["kernels"][settings["kernel"]],
        corrPower=settings["corrPower"],
        sigma_cc=settings["sigma_cc"],
        subpixel="multicorr",
        upsample_factor=settings["upsample_factor"],
        minRelativeIntensity=settings["minRelativeIntensity"],
        minPeakSpacing=1.5 * radius,
        edgeBoundary=int(radius),
    )
    xy = np.stack([found.data["qy"], found.data["qx"]], -1)  # its x is the row
    fit = np.vstack([HERE["centre"], HERE["lattice"][i]])
    for limit in (0.7 * radius, 0.25 * radius):
        index, near = indexed(xy, fit, limit)
        kept = [
            xy[near, 1],
            xy[near, 0],
            found.data["intensity"][near] ** settings["weight"],
            index[near, 0],
            index[near, 1],
        ]
        names = ("qx", "qy", "intensity", "g1_ind", "g2_ind")
        rows = np.array(list(zip(*kept, strict=True)), dtype=[(n, float if n[0] != "g" else int) for n in names])
        y0, x0, g1y, g1x, g2y, g2x, _ = fit_lattice_vectors(PointList(rows))
        if y0 is None:
            return MISSED
        fit = np.array([[x0, y0], [g1x, g1y], [g2x, g2y]])
    return fit


def blobfinder(i: int, settings: dict) -> np.ndarray:
    """Origin and two vectors (3, 2) of frame i."""
    from libertem_blobfinder.common.correlation import process_frames_fast
    from libertem_blobfinder.common.gridmatching import Matcher

    nominal = HERE["centre"] + HERE["reflections"] @ HERE["lattice"][i]
    size = HERE["frames"].shape[-1]
    inside = ((nominal > HERE["radius"]) & (nominal < size - 1 - HERE["radius"])).all(1)
    expected = np.round(nominal[inside][:, ::-1]).astype(int)  # y, x
    centers, refined, heights, elevations = process_frames_fast(
        HERE["patterns"][settings["pattern"]],
        HERE["frames"][i : i + 1].astype(np.float32),
        expected,
        settings["upsample"],
    )
    zero, a, b = (np.array(v[::-1]) for v in (HERE["centre"], *HERE["lattice"][i]))
    match = Matcher(tolerance=0.25 * HERE["radius"]).fastmatch(
        centers[0], zero, a, b, refineds=refined[0], peak_values=heights[0], peak_elevations=elevations[0]
    )
    return np.array([match.zero[::-1], match.a[::-1], match.b[::-1]])


def part(job: tuple[dict, int, int]) -> np.ndarray:
    """Lattices (n, 3, 2) of a range of frames."""
    settings, begin, end = job
    find = {"py4DSTEM": py4dstem, "blobfinder": blobfinder}[settings["peer"]]
    found = []
    for i in range(begin, end):
        try:
            found.append(find(i, settings))
        except (np.linalg.LinAlgError, ValueError, TypeError, IndexError):
            found.append(MISSED)  # of a pattern in which too few disks were found
    return np.array(found).reshape(-1, 3, 2)


def prepare(folder: Path) -> None:
    """Load what is given, and make the peers' templates."""
    from libertem_blobfinder.common.patterns import BackgroundSubtraction, RadialGradientBackgroundSubtraction
    from py4DSTEM.braggvectors import Probe

    HERE["frames"] = np.load(folder / "frames.npy")
    with np.load(folder / "given.npz") as given:
        HERE.update({name: given[name] for name in given.files})
    HERE["radius"] = radius = float(HERE["radius"])
    middle = (HERE["frames"].shape[-1] - 1) / 2
    HERE["centre"] = np.array([middle, middle])
    probe = np.load(folder / "probe.npy")
    HERE["kernels"] = {
        "flat": Probe.get_probe_kernel_flat(probe, origin=(middle, middle)),
        "gaussian": Probe.get_probe_kernel_edge_gaussian(probe, 3.0, origin=(middle, middle), bilinear=False),
        "sigmoid": Probe.get_probe_kernel_edge_sigmoid(
            probe, (radius, 2 * radius), origin=(middle, middle), bilinear=False
        ),
    }
    HERE["patterns"] = {
        "gradient": RadialGradientBackgroundSubtraction(radius=radius),
        "flat": BackgroundSubtraction(radius=radius),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    prepare(Path(sys.argv[1]))
    packages = {"py4DSTEM": version("py4DSTEM"), "blobfinder": version("libertem-blobfinder")}
    print(json.dumps(packages), flush=True)
    for line in sys.stdin:
        settings = json.loads(line)
        part((settings, 0, 2))  # compiles
        with get_context("fork").Pool(settings["cores"]) as pool:
            pool.map(part, [(settings, 0, 1)] * settings["cores"])
            edges = np.linspace(0, settings["frames"], 4 * settings["cores"] + 1).astype(int)
            jobs = [(settings, int(a), int(b)) for a, b in zip(edges, edges[1:])]  # noqa: B905, RUF007
            began = time.perf_counter()
            found = np.concatenate(pool.map(part, jobs, chunksize=1))
            seconds = (time.perf_counter() - began) / settings["frames"]
        np.savez(settings["out"], lattice=found[:, 1:], centre=found[:, 0])
        print(json.dumps({"seconds": seconds}), flush=True)
