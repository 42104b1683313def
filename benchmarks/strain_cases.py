"""The specimens of the strain benchmark: patterns without noise, with all that is true of them, drawn by seed.

A case is a scan over a specimen; another seed is another specimen of the same kind.

=============  =========  ======  =======  =================================================================
case           material   pixels  scan     specimen
=============  =========  ======  =======  =================================================================
Si-256         Si [110]   256     24 × 24  one crystal under a smooth strain (a misfit step and a wrinkle, up
                                           to 2 %)
SrTiO3-256     SrTiO3     256     24 × 24  the same of SrTiO3 [001]
Si-128         Si         128     64 × 64  as Si-256, on half as many pixels
SrTiO3-128     SrTiO3     128     64 × 64
background-0   Si         256     24 × 24  as Si-256, without a Lorentzian background
background-70  Si         256     24 × 24  the same specimens, 70 % of the electrons in the Lorentzian
grains-256     Si         256     32 × 32  8 grains at random rotations, each with a strain, thickness and tilt
                                           of its own
grains-128     Si         128     64 × 64  the same on half as many pixels
multislice     Si         128     6 × 6    a few patterns by multislice of all strained atoms, see below
composed       Si         128     6 × 6    the same patterns, put together from a table of disks
=============  =========  ======  =======  =================================================================

In all: 200 keV; semiangle 3 mrad (Si) or 2.8 mrad (SrTiO3), a disk radius of 12 pixels of 256 or 6 of 128; a wedge 10
to 25 nm thick; the zone axis up to 2.4 mrad off the beam, by a bend and as a whole; descan up to 2.5 pixels of 256;
point spread of 0.6 pixels; 5 % of the electrons in a Lorentzian if nothing else is said. Patterns are composed of disks
that multislice has filled (`disk_patterns`), and have thermal diffuse scattering (`diffuse_scattering`).

The cases ``multislice`` and ``composed`` check that composing does not flatter: both have the same atoms, at rest. What
reads one much better than the other profits from what composing leaves out.

Tables of disks are kept in a folder, since they take minutes, and so are the patterns of ``multislice``; the others are
composed again whenever they are asked for, a few milliseconds each.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from bluesky_edgestem.analysis import crystals, disk_library, disk_tables
from bluesky_edgestem.analysis.cramer_rao import central_differences, poisson_information
from bluesky_edgestem.analysis.diffraction import cbed, counted, detected, patch_extent
from bluesky_edgestem.analysis.diffuse_scattering import diffuse_pattern
from bluesky_edgestem.analysis.disk_library import TableSpec
from bluesky_edgestem.analysis.disk_patterns import compose
from bluesky_edgestem.analysis.disk_tables import DiskTable
from bluesky_edgestem.analysis.materials import material, patch
from bluesky_edgestem.analysis.optics import Optics

LAYERS = tuple(range(46, 137, 6))  # 9 to 26 nm, for both materials; whole periods, as crystals end
TABLES = {
    name: TableSpec(name, 200.0, LAYERS, angle_mrad=6.0, step_mrad=0.4, g_max=1.4, strained=True)
    for name in ("Si", "SrTiO3")
}
SEMIANGLE = {"Si": 3.0, "SrTiO3": 2.8}
#: Of the central differences of the Cramér–Rao bound: strain (3), rotation [rad], centre (2) [pixels].
STEPS = (1e-3, 1e-3, 1e-3, 1e-3, 0.1, 0.1)
SAMPLED, INFORMED = 256, 64
"""Positions of a scan that are read, and patterns whose bound is computed: it changes smoothly over a specimen."""
IN_A_GRAIN = 128  # positions of each of several grains: noise must not be taken for their mean error
MULTISLICE_LAYERS, MULTISLICE_REACH = (52, 68), 3.0  # 10 to 13 nm, up to 3 1/Å: seconds a pattern


@dataclass(frozen=True)
class Kind:
    """What the specimens of a case have in common."""

    material: str
    n_pixels: int
    background: float = 0.05
    grains: int = 1
    side: int = 24  #: positions along each side of the scan
    by_multislice: bool = False  #: the atoms at rest, few and thinner
    salt: int = 0  #: cases with the same salt, material and scan share their specimens

    @property
    def optics(self) -> Optics:
        """Beam and detector."""
        semiangle = SEMIANGLE[self.material]
        pixel = semiangle / 12 * 256 / self.n_pixels
        return Optics(200.0, semiangle, pixel, self.n_pixels, psf_px=0.6, background=self.background)


CASES = {
    "Si-256": Kind("Si", 256),
    "SrTiO3-256": Kind("SrTiO3", 256),
    "Si-128": Kind("Si", 128, side=64),
    "SrTiO3-128": Kind("SrTiO3", 128, side=64),
    "background-0": Kind("Si", 256, background=0.0),
    "background-70": Kind("Si", 256, background=0.7),
    "grains-256": Kind("Si", 256, grains=8, side=32, salt=1),
    "grains-128": Kind("Si", 128, grains=8, side=64, salt=1),
    "multislice": Kind("Si", 128, side=6, by_multislice=True, salt=2),
    "composed": Kind("Si", 128, side=6, by_multislice=True, salt=2),
}


@dataclass(frozen=True)
class Specimen:
    """What is true at each of n positions of a scan, row by row."""

    strain: np.ndarray  #: (n, 3) exx, eyy, exy relative to the reference lattice, image axes
    rotation: np.ndarray  #: (n,) [rad], any angle
    layers: np.ndarray  #: (n,) thickness
    mistilt_mrad: np.ndarray  #: (n, 2) where the zone axis points, from the beam's
    shift_px: np.ndarray  #: (n, 2) where the beam meets the detector, x and y from its centre
    grain: np.ndarray  #: (n,) int

    def __len__(self) -> int:
        return len(self.rotation)


@dataclass(frozen=True)
class StrainCase:
    """A scan with its truth and the Cramér–Rao bound of its strain."""

    name: str
    seed: int
    material: str
    optics: Optics
    specimen: Specimen
    reference: np.ndarray  #: (2, 2) the reference lattice's reciprocal vectors as rows [pixels]
    patterns: np.ndarray  #: (n, ny, nx) float32, probability that an electron is counted in each pixel
    #: (m, 7, 7) of patterns spread over the scan, per electron, by `cramer_rao.PARAMETERS`; none if it is not known
    information: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        """Where the direct beam is, x and y from the frame's first pixel, (n, 2) [pixels]."""
        return self.specimen.shift_px + (self.optics.n_pixels - 1) / 2

    @property
    def lattice(self) -> np.ndarray:
        """The deformed lattice's reciprocal vectors as rows, (n, 2, 2) [pixels]."""
        f = crystals.deformation(self.specimen.strain, self.specimen.rotation)
        return self.reference @ np.linalg.inv(f)

    def frames(self, dose: float, seed: int = 0) -> np.ndarray:
        """Counts (n, ny, nx) uint16 at `dose` [electrons per pattern], another draw for another seed."""
        return counted(self.patterns, dose, np.random.default_rng([self.seed, seed, int(dose)]))

    def sample(self) -> StrainCase:
        """Positions spread evenly over the scan that readings are scored at: `SAMPLED`, or `IN_A_GRAIN` a grain."""
        grains = int(self.specimen.grain.max()) + 1
        which = _spread(len(self.patterns), SAMPLED if grains == 1 else IN_A_GRAIN * grains)
        specimen = Specimen(*(getattr(self.specimen, field.name)[which] for field in fields(Specimen)))
        return replace(self, specimen=specimen, patterns=self.patterns[which])


def _spread(n: int, count: int) -> np.ndarray:
    """Up to `count` of n positions, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(count, n)).astype(int))


def _smooth(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A smooth random field over coordinates 0 to 1, its largest value 1."""
    total = np.zeros_like(x)
    for _ in range(4):
        kx, ky = rng.normal(0, 0.8, 2)
        total += rng.normal() * np.cos(2 * np.pi * (kx * x + ky * y + rng.uniform()))
    return total / np.abs(total).max()


def _grains(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, count: int) -> np.ndarray:
    """The number of the nearest of `count` points, of which one is in each field of a grid of two rows."""
    if count == 1:
        return np.zeros(len(x), int)
    columns = count // 2
    at = np.array([(i, j) for j in range(2) for i in range(columns)]) + rng.uniform(0.2, 0.8, (count, 2))
    at /= (columns, 2)
    return np.argmin((x[:, None] - at[:, 0]) ** 2 + (y[:, None] - at[:, 1]) ** 2, axis=1)


def draw_specimen(kind: Kind, seed: int) -> Specimen:
    """The specimen of a kind and seed."""
    rng = np.random.default_rng([seed, kind.salt, list(SEMIANGLE).index(kind.material), kind.side])
    y, x = (axis.ravel() / max(kind.side - 1, 1) for axis in np.indices((kind.side, kind.side)))
    n = len(x)
    grain = _grains(rng, x, y, kind.grains)
    # Across a misfit one component steps by up to 2 %; wrinkles and the rest are smooth.
    angle = rng.uniform(-np.pi, np.pi)
    across = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)
    step = np.tanh(across / rng.uniform(0.05, 0.2))
    strain = np.stack([0.006 * _smooth(rng, x, y) for _ in range(3)], -1)
    if kind.grains == 1:
        strain[:, rng.integers(2)] += rng.choice([-1, 1]) * rng.uniform(0.005, 0.01) * step
        wrinkle = np.sin(2 * np.pi * (2 * across + rng.uniform()))
        strain[:, rng.integers(3)] += 0.004 * wrinkle
        rotation = rng.uniform(-np.pi, np.pi) + 0.02 * _smooth(rng, x, y)
        tilt, thickness = np.zeros((1, 2)), np.zeros(1)
    else:
        strain = strain / 3 + rng.uniform(-0.01, 0.01, (kind.grains, 3))[grain]
        rotation = rng.uniform(-np.pi, np.pi, kind.grains)[grain] + 0.003 * _smooth(rng, x, y)
        tilt, thickness = rng.uniform(-0.7, 0.7, (kind.grains, 2)), rng.uniform(-0.15, 0.15, kind.grains)
    direction = rng.uniform(-np.pi, np.pi)
    along = (x - 0.5) * np.cos(direction) + (y - 0.5) * np.sin(direction)
    wedge = np.clip(0.5 + 0.8 * along + thickness[grain], 0, 1)
    low, high = MULTISLICE_LAYERS if kind.by_multislice else (LAYERS[0] + 6, LAYERS[-1] - 6)
    mistilt = rng.uniform(-0.7, 0.7, 2) + tilt[grain] + np.stack([_smooth(rng, x, y) for _ in range(2)], -1)
    mistilt *= np.minimum(1, 2.4 / np.hypot(*mistilt.T))[:, None]  # the tables reach no farther
    drift = np.stack([1.2 * (x - 0.5), 1.2 * (y - 0.5)], -1) @ crystals.rotation_matrix(rng.uniform(-np.pi, np.pi))
    shift = rng.uniform(-1, 1, 2) + drift + 0.4 * np.stack([_smooth(rng, x, y) for _ in range(2)], -1)
    layers = low + (high - low) * wedge
    return Specimen(
        np.clip(strain, -0.02, 0.02), rotation, np.round(layers) if kind.by_multislice else layers,
        mistilt, shift * kind.n_pixels / 256, grain.reshape(n),
    )  # fmt: skip


def table(name: str, folder: Path) -> DiskTable:
    """The disks of a material, from the folder; computed if it has none."""
    disk_library.generate(folder / "disks.h5", list(TABLES.values()))
    return disk_library.read(folder / "disks.h5", name, 200.0)


def still_table() -> DiskTable:
    """Disks of silicon whose atoms are at rest, as the multislice has them; half a minute."""
    low, high = MULTISLICE_LAYERS
    spec = TABLES["Si"]
    layers = range(low - 4, high + 5, 4)
    return disk_tables.compute(
        "Si", 200.0, layers, spec.angle_mrad, spec.step_mrad, spec.g_max, displacements={}, strained=True
    )


def composed(disks: DiskTable, optics: Optics, specimen: Specimen, i: int, moved: np.ndarray, still: bool):
    """Pattern i, with its strain, rotation and centre changed by `moved` (6,)."""
    shift = specimen.shift_px[i] + moved[4:]
    place = (float(shift[0]), float(shift[1]))
    pattern = compose(
        disks, optics, specimen.strain[i] + moved[:3], float(specimen.rotation[i] + moved[3]),
        float(specimen.layers[i]), place, mistilt_mrad=tuple(specimen.mistilt_mrad[i]),
    )  # fmt: skip
    if not still:
        pattern = pattern + diffuse_pattern(disks, optics, float(specimen.layers[i]), place)
    return detected(pattern, optics, place)


def information(expected: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Fisher information per electron (7, 7) of a pattern, by `cramer_rao.PARAMETERS`."""
    at = np.zeros(6)
    mean = expected(at)
    return poisson_information(mean, np.concatenate([central_differences(expected, at, STEPS), mean[None]]))


def sliced(kind: Kind, specimen: Specimen, i: int) -> np.ndarray:
    """Pattern i by multislice of its atoms."""
    optics = kind.optics
    shift = tuple(specimen.shift_px[i].tolist())
    atoms = patch(
        kind.material, specimen.strain[i], float(specimen.rotation[i]), patch_extent(optics), int(specimen.layers[i])
    )
    pattern = cbed(
        atoms, optics, shift, mistilt_mrad=tuple(specimen.mistilt_mrad[i].tolist()),
        slice_thickness=material(kind.material).spacing, reach=MULTISLICE_REACH,
    )  # fmt: skip
    return detected(pattern, optics, shift)


def _kept(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in a file; made and written if there is none."""
    if not path.exists():
        made = make()
        part = path.with_suffix(".part.npy")
        np.save(part, made)
        part.replace(path)
    return np.load(path)


def _sliced_all(kind: Kind, specimen: Specimen, workers: int) -> np.ndarray:
    work: Callable[[int], np.ndarray] = partial(sliced, kind, specimen)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return np.array(list(pool.map(work, range(len(specimen)))))


def make(name: str, seed: int, folder: Path, workers: int = 1) -> StrainCase:
    """A case of one seed.

    Parameters
    ----------
    name : str
        One of `CASES`.
    seed : int
        Settles the specimen.
    folder : Path
        Where tables and multislice patterns are kept.
    workers : int
        Processes for multislice.

    Raises
    ------
    ValueError
        If there is no such case.
    """
    if name not in CASES:
        raise ValueError(f"no case {name!r}; there are {', '.join(CASES)}")
    kind = CASES[name]
    optics, specimen = kind.optics, draw_specimen(kind, seed)
    folder.mkdir(parents=True, exist_ok=True)
    disks = still_table() if kind.by_multislice else table(kind.material, folder)
    still = kind.by_multislice
    nothing = np.zeros(6)
    if name == "multislice":
        patterns = _kept(folder / f"multislice_{seed}.npy", lambda: _sliced_all(kind, specimen, workers))
    else:
        patterns = np.array([composed(disks, optics, specimen, i, nothing, still) for i in range(len(specimen))])
    known = np.array(
        [
            information(lambda moved, i=i: composed(disks, optics, specimen, i, moved, still))
            for i in _spread(len(specimen), INFORMED)
        ]
    )
    reference = material(kind.material).reciprocal / optics.pixel_reciprocal
    return StrainCase(name, seed, kind.material, optics, specimen, reference, patterns, known)
