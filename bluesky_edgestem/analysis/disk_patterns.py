"""Patterns of deformed crystals, put together from tables of their disks.

Each disk is placed at ``F^-T g`` and filled from the table of the undeformed crystal: a point κ of the disk is looked
up at ``F^T (κ - m)``, with m the mistilt, and at the thickness divided by ``det F``, since excitation errors
and potential both scale with that. What strain does beyond this, to form factors, and to excitation errors where it
differs between directions, is added to first order if the table has its derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import crystals
from .disk_tables import DiskTable
from .kernels import kernel
from .materials import material
from .optics import Optics

#: Samples along each side of a pixel that a disk's edge crosses. `cbed` has two, which moves disks by a few thousandths
#: of a pixel, and its softened edge makes their radius 0.08 pixel less.
EDGE_SAMPLES = 8
#: A disk that is nowhere brighter than this part of the incident beam may overlap others: its interference with the
#: brightest would be 2 %.
INTERFERING = 1e-4


@kernel(fastmath=True)
def _cubic(t: float) -> tuple[float, float, float, float]:  # pragma: no cover - compiled
    """Catmull–Rom weights of the samples at -1, 0, 1, 2 for a point at t in [0, 1)."""
    return (
        t * (-0.5 + t * (1.0 - 0.5 * t)),
        1.0 + t * t * (1.5 * t - 2.5),
        t * (0.5 + t * (2.0 - 1.5 * t)),
        t * t * (0.5 * t - 0.5),
    )


@kernel(fastmath=True)
def _looked_up(fills, which, x, y):  # pragma: no cover - compiled
    """Intensity between the samples of one reflection's disk, cubic in κ."""
    ix, iy = int(x), int(y)
    wx, wy = _cubic(x - ix), _cubic(y - iy)
    value = 0.0
    for b in range(4):
        line = 0.0
        for a in range(4):
            line += wx[a] * fills[which, iy - 1 + b, ix - 1 + a]
        value += wy[b] * line
    return max(value, 0.0)


@kernel(fastmath=True)
def _place(frame, fills, centres, to_kappa, to_table, tilt, step, cutoff, brightness):
    # pragma: no cover - compiled
    """Add disks to a frame (n, n).

    `fills` (g, k, k) intensities, `centres` (g, 2) [pixels from the frame's first], `to_kappa` (2, 2) from pixels to
    wave vectors, `to_table` (2, 2) from there to the table's axes, `tilt` (2,) and `cutoff` [1/Å], `brightness` of a
    pixel at intensity 1.
    """
    n = frame.shape[0]
    half = fills.shape[-1] // 2
    # Half the extent of a disk along x and y: the ellipse |to_kappa p| < cutoff.
    det = abs(to_kappa[0, 0] * to_kappa[1, 1] - to_kappa[0, 1] * to_kappa[1, 0])
    reach_x = cutoff * np.hypot(to_kappa[0, 1], to_kappa[1, 1]) / det + 1.0
    reach_y = cutoff * np.hypot(to_kappa[0, 0], to_kappa[1, 0]) / det + 1.0
    # Beyond this distance from the edge a pixel is whole; only at the edge are many samples worth their time.
    border = 0.75 * np.sqrt(det)
    for g in range(centres.shape[0]):
        cx, cy = centres[g, 0], centres[g, 1]
        for row in range(max(0, int(np.ceil(cy - reach_y))), min(n, int(np.floor(cy + reach_y)) + 1)):
            for column in range(max(0, int(np.ceil(cx - reach_x))), min(n, int(np.floor(cx + reach_x)) + 1)):
                px, py = column - cx, row - cy
                kx = to_kappa[0, 0] * px + to_kappa[0, 1] * py
                ky = to_kappa[1, 0] * px + to_kappa[1, 1] * py
                radius = np.sqrt(kx * kx + ky * ky)
                if radius > cutoff + border:
                    continue
                samples = 2 if radius < cutoff - border else EDGE_SAMPLES
                soft = np.sqrt(det) / samples
                covered, middle_x, middle_y, total = 0.0, 0.0, 0.0, 0.0
                for i in range(samples):
                    qy = py + (i + 0.5) / samples - 0.5
                    for j in range(samples):
                        qx = px + (j + 0.5) / samples - 0.5
                        kx = to_kappa[0, 0] * qx + to_kappa[0, 1] * qy
                        ky = to_kappa[1, 0] * qx + to_kappa[1, 1] * qy
                        if samples == 2:
                            kx -= tilt[0]
                            ky -= tilt[1]
                            x = (to_table[0, 0] * kx + to_table[0, 1] * ky) / step + half
                            y = (to_table[1, 0] * kx + to_table[1, 1] * ky) / step + half
                            total += 0.25 * _looked_up(fills, g, x, y)
                        else:
                            part = min(max(0.5 + (cutoff - np.sqrt(kx * kx + ky * ky)) / soft, 0.0), 1.0)
                            covered += part
                            middle_x += part * kx
                            middle_y += part * ky
                if covered > 0.0:
                    kx, ky = middle_x / covered - tilt[0], middle_y / covered - tilt[1]
                    x = (to_table[0, 0] * kx + to_table[0, 1] * ky) / step + half
                    y = (to_table[1, 0] * kx + to_table[1, 1] * ky) / step + half
                    total = covered / samples**2 * _looked_up(fills, g, x, y)
                frame[row, column] += brightness * total


def _between(layers: np.ndarray, wanted: float) -> tuple[int, np.ndarray]:
    """The first of the (at most four) thicknesses to interpolate from, and their Lagrange weights."""
    count = min(4, len(layers))
    first = int(np.clip(np.searchsorted(layers, wanted) - count // 2, 0, len(layers) - count))
    nodes = layers[first : first + count].astype(float)
    weights = np.array(
        [np.prod((wanted - np.delete(nodes, i)) / (nodes[i] - np.delete(nodes, i))) for i in range(count)]
    )
    return first, weights


def _fills(table: DiskTable, depth: float, strain: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Intensities (g, k, k) of reflections `which` at a thickness [layers] and a strain (3,) in the crystal's axes."""
    first, weights = _between(table.layers, depth)
    fills = np.zeros((len(which), *table.intensity.shape[2:]), np.float32)
    _add(fills, table.intensity[first:], weights, which)
    if table.by_strain is not None:
        for component, slope in zip(strain, table.by_strain, strict=True):
            _add(fills, slope[first:], component * weights, which)
    return fills


@kernel(fastmath=True)
def _add(fills, tables, weights, which):  # pragma: no cover - compiled
    """Add the tables (t, g, k, k) of reflections `which` to `fills`, weighted over the first thicknesses."""
    for i in range(which.shape[0]):
        for t in range(weights.shape[0]):
            weight = np.float32(weights[t])
            for y in range(fills.shape[1]):
                for x in range(fills.shape[2]):
                    fills[i, y, x] += weight * tables[t, which[i], y, x]


def compose(
    table: DiskTable,
    optics: Optics,
    strain: Sequence[float] | np.ndarray,
    rotation: float,
    layers: float,
    shift_px: tuple[float, float] = (0.0, 0.0),
    *,
    mistilt_mrad: tuple[float, float] = (0.0, 0.0),
    distortion: np.ndarray | None = None,
) -> np.ndarray:
    """The pattern of a deformed crystal, as `diffraction.cbed` gives it of its atoms, without the diffuse part.

    Parameters
    ----------
    table : DiskTable
        Disks of the material at the energy of `optics`.
    optics : Optics
        Beam and detector.
    strain : (3,)
        exx, eyy, exy relative to the reference lattice of the material's family, image axes.
    rotation : float
        Rotation of the crystal [rad].
    layers : float
        Thickness in layers; those between the table's are interpolated.
    shift_px, mistilt_mrad
        As in `diffraction.cbed`.
    distortion : array (2, 2), optional
        What the projector lenses make of the pattern around the beam: a point at p [pixels] arrives at
        ``distortion @ p``.

    Returns
    -------
    array (n_pixels, n_pixels), float32
        Probability that an electron arrives in each pixel.

    Raises
    ------
    ValueError
        If disks overlap, or the table is for another energy, for smaller angles or for other thicknesses.
    """
    if abs(table.energy_keV / optics.energy_keV - 1) > 1e-6:
        raise ValueError(f"the table is for {table.energy_keV} keV, the beam has {optics.energy_keV} keV")
    f = crystals.deformation(np.asarray(strain, float), rotation)
    depth = layers / np.linalg.det(f)
    if not table.layers[0] <= layers <= table.layers[-1]:
        raise ValueError(f"the table is for {table.layers[0]} to {table.layers[-1]} layers, asked for are {layers}")
    cutoff = optics.semiangle_mrad * 1e-3 / optics.wavelength
    tilt = np.asarray(mistilt_mrad, float) * 1e-3 / optics.wavelength
    widest = (cutoff + np.hypot(*tilt) + optics.pixel_reciprocal) * np.linalg.norm(f, 2)
    if widest > table.reach:
        to_mrad = 1e3 * optics.wavelength
        raise ValueError(
            f"semiangle and mistilt of {optics.semiangle_mrad:.2f} and {np.hypot(*mistilt_mrad):.2f} mrad need a table "
            f"up to {widest * to_mrad:.2f} mrad; this one reaches {table.reach * to_mrad:.2f} mrad"
        )
    inverse = np.linalg.inv(f)
    g = table.reflections @ material(table.material).reciprocal @ inverse
    lengths = np.linalg.norm(g, axis=1)
    nearest = lengths[(lengths > 0) & (table.intensity.max((0, 2, 3)) > INTERFERING)].min()
    if 2 * cutoff > nearest:
        raise ValueError(
            f"disks overlap at a semiangle of {optics.semiangle_mrad} mrad and would interfere: take cbed, or at most "
            f"{0.5e3 * nearest * optics.wavelength:.2f} mrad"
        )
    bend = np.eye(2) if distortion is None else np.asarray(distortion, float)
    n = optics.n_pixels
    centres = g @ bend.T / optics.pixel_reciprocal + (n - 1) / 2 + np.asarray(shift_px)
    to_kappa = np.linalg.inv(bend) * optics.pixel_reciprocal
    margin = cutoff / optics.pixel_reciprocal * np.linalg.norm(bend, 2) + 1
    near = np.flatnonzero((np.abs(centres - (n - 1) / 2) < n / 2 + margin).all(1))
    turn = crystals.rotation_matrix(rotation)
    strain_of_cell = crystals.strain_vector(turn.T @ crystals.strain_tensor(np.asarray(strain, float)) @ turn)
    frame = np.zeros((n, n))
    _place(
        frame, _fills(table, depth, strain_of_cell, near), np.ascontiguousarray(centres[near]),
        to_kappa, np.ascontiguousarray(f.T), tilt, table.step, cutoff,
        abs(np.linalg.det(to_kappa)) / (np.pi * cutoff**2),
    )  # fmt: skip
    return frame.astype(np.float32)
