"""Maps of strain and rotation, and of their uncertainty, drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..analysis.strain import COMPONENTS, StrainMaps
from .imaging_pictures import scale_bar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SYMBOLS = {"infinitesimal": "\\varepsilon", "Lagrangian": "E"}
QUANTILE = 0.005
"""Share of the points at either end that may lie beyond the colours: one stray point must not hide the others."""
DEGREES_FROM = np.radians(3.0)
"""Rotations [rad] from which degrees are easier to read than mrad."""
NOT_KNOWN = "0.6"


def draw(maps: StrainMaps, figure: Figure | None = None) -> Figure:
    """Draw the four maps, and below each its standard deviation; grey where no pattern could be read.

    The components of strain have one scale, so that noise in one is not drawn like strain in another. The region for
    reference is outlined.

    Parameters
    ----------
    maps : StrainMaps
        Of a raster, or of a list of positions, drawn as dots.
    figure : matplotlib.figure.Figure, optional
        To draw on; it is cleared.
    """
    if figure is None:
        from matplotlib.figure import Figure

        wide, high = np.ptp(maps.positions, axis=0) if len(maps) else (1.0, 1.0)
        high = float(np.clip(high / wide if wide else 1.5, 0.4, 1.5))
        figure = Figure(figsize=(17.0, 2 * (3.3 * high + 0.9) + 0.5), layout="constrained")
    figure.clear()
    axes = figure.subplots(2, 4, sharex=True, sharey=True)
    for column, name in enumerate(COMPONENTS):
        middle, unit, scale = _scale(maps, name)
        symbol = "rotation" if name == "rotation" else f"${SYMBOLS[maps.measure]}_{{{name[1:]}}}$"
        values, sd = scale * maps.values(name), scale * maps.values(f"{name}_sd")
        alike = [name] if name == "rotation" else [each for each in COMPONENTS if each != "rotation"]
        limit = scale * (max(_quantile(np.abs(maps.values(each) - middle)) for each in alike) or 1.0)
        most = scale * (max(_quantile(maps.values(f"{each}_sd")) for each in alike) or 1.0)
        even = {"cmap": "RdBu_r", "vmin": scale * middle - limit, "vmax": scale * middle + limit}
        from_0 = {"cmap": "viridis", "vmin": 0.0, "vmax": most}
        _draw_one(axes[0, column], maps, values, f"{symbol} [{unit}]", even)
        _draw_one(axes[1, column], maps, sd, f"Standard deviation of {symbol} [{unit}]", from_0)
    if maps.region is not None:
        left, right, bottom, top = maps.region.extent
        for above in axes[0]:
            x, y = (left, right, right, left, left), (bottom, bottom, top, top, bottom)
            above.plot(x, y, color="black", lw=0.8, ls="--", scalex=False, scaley=False)
    for below in axes[1]:
        below.set_xlabel("x [nm]")
    for left in axes[:, 0]:
        left.set_ylabel("y [nm]")
    figure.suptitle(_summary(maps), fontsize="medium", color="firebrick" if maps.caution else "black")
    return figure


def _scale(maps: StrainMaps, name: str) -> tuple[float, str, float]:
    """Middle of the colours, unit, and its factor: 0 and % for strain; rotations are even about their median."""
    if name != "rotation":
        return 0.0, "%", 100.0
    known = maps.rotation[maps.known]
    middle = float(np.median(known)) if known.size else 0.0
    spread = _quantile(np.abs(maps.rotation - middle))
    # Relative to a region most rotations are about 0 already, and 0 is then what white should mean.
    middle = middle if abs(middle) > spread else 0.0
    if max(spread, abs(middle)) > DEGREES_FROM:
        return middle, "°", float(np.degrees(1.0))
    return middle, "mrad", 1e3


def _quantile(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.quantile(known, 1 - QUANTILE)) if known.size else 0.0


def _draw_one(axes: Axes, maps: StrainMaps, values: np.ndarray, title: str, style: dict) -> None:
    axes.set_facecolor(NOT_KNOWN)
    if maps.grid is not None:
        field, shape = maps.grid.field, maps.grid.shape
        half_x, half_y = field.width / (shape[1] - 1) / 2, field.height / (shape[0] - 1) / 2
        left, right, bottom, top = field.extent
        extent = (left - half_x, right + half_x, bottom - half_y, top + half_y)
        drawn = axes.imshow(maps.on_grid(values), origin="lower", extent=extent, interpolation="nearest", **style)
        scale_bar(axes, extent)
    else:
        known = np.isfinite(values)
        axes.scatter(*maps.positions[~known].T, c="none", edgecolors="white", s=12)
        drawn = axes.scatter(*maps.positions[known].T, c=values[known], s=12, **style)
        axes.set_aspect("equal", "box")
        scale_bar(axes, (*axes.get_xlim(), *axes.get_ylim()))
    axes.set_title(title[0].upper() + title[1:])
    extend = "max" if style["vmin"] == 0 else "both"
    figure = axes.get_figure()
    assert figure is not None
    figure.colorbar(drawn, cax=axes.inset_axes((1.03, 0.0, 0.05, 1.0)), extend=extend)


def _summary(maps: StrainMaps) -> str:
    lagrangian = maps.measure == "Lagrangian"
    kind = "Lagrangian strain, axes of the reference" if lagrangian else "Infinitesimal strain, axes of the scan"
    said = [maps.caution] if maps.caution else []
    said.append(f"{kind}, relative to {maps.reference}")
    said.append(f"{np.count_nonzero(maps.known)} of {len(maps)} patterns read")
    if maps.scan_rotation or maps.mirrored:
        turned = f"detector turned by {np.degrees(maps.scan_rotation):.1f}°"
        said.append(turned + (" and mirrored" if maps.mirrored else ""))
    return "; ".join(said)
