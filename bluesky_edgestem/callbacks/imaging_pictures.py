"""Images of a scan, drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..analysis.scan_images import ScanImages

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DIVERGING = ("com_x", "com_y", "dpc_x", "dpc_y", "divergence", "curl")
TITLES = {
    "sum": "Sum",
    "com_x": "Centre of mass, x",
    "com_y": "Centre of mass, y",
    "magnitude": "Deflection, magnitude",
    "direction": "Deflection, direction",
    "divergence": "Divergence",
    "curl": "Curl",
}
COLUMNS = 3
SUMMARY = "summary"
QUANTILE = 0.005
"""Share of the points at either end that may lie beyond the colours: one stray point must not hide the others."""


def draw(images: ScanImages, figure: Figure | None = None) -> Figure:
    """Draw all images of a scan, those of a list of positions as dots.

    Parameters
    ----------
    images : ScanImages
    figure : matplotlib.figure.Figure, optional
        To draw on; it is cleared.
    """
    names = [name for name in images.names if not name.startswith("dpc_")]
    rows = -(-len(names) // COLUMNS)
    if figure is None:
        from matplotlib.figure import Figure

        field = images.grid.field if images.grid else None
        high = 1.0 if field is None else float(np.clip(field.height / field.width, 0.4, 1.5))
        figure = Figure(figsize=(5.2 * COLUMNS, (4.0 * high + 0.9) * rows + 0.4), layout="constrained")
    figure.clear()
    all_axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes, name in zip(all_axes, names, strict=False):
        _draw_one(figure, axes, images, name)
    for axes in all_axes[len(names) :]:
        axes.set_axis_off()
    figure.suptitle(_summary(images)).set_gid(SUMMARY)
    return figure


def update(images: ScanImages, figure: Figure) -> None:
    """Bring what `draw` drew of the same scan up to date: without the layout, which takes most of the time."""
    for axes in figure.axes:
        for raster in axes.images:
            raster.set_data(images.image(str(raster.get_gid())))
        for dots in axes.collections:
            dots.set(offsets=images.positions, array=images.image(str(dots.get_gid())))
            axes.update_datalim(images.positions)
            axes.autoscale_view()
        for drawn in (*axes.images, *axes.collections):
            name = str(drawn.get_gid())
            style = colours(name, images.image(name))
            drawn.set_clim(style["vmin"], style["vmax"])
    # The text only: a title that is set again forgets where the layout has put it.
    next(text for text in figure.texts if text.get_gid() == SUMMARY).set_text(_summary(images))


def _summary(images: ScanImages) -> str:
    measured = int(np.count_nonzero(np.isfinite(images.values["sum"])))
    said = [f"{measured} of {len(images.positions)} points" if images.grid else f"{measured} points"]
    counts = (
        ("lost", images.lost),
        ("empty", images.empty),
        ("off the grid", images.outside),
        ("on the way back", images.flyback),
    )
    said += [f"{count} frames {what}" for what, count in counts if count]
    return ", ".join(said)


def unit(images: ScanImages, name: str) -> str:
    """Unit of an image, as it is written beside the colours."""
    units = {"direction": "rad", "divergence": f"{images.com_unit}/nm", "curl": f"{images.com_unit}/nm"}
    if name in ("com_x", "com_y", "dpc_x", "dpc_y", "magnitude"):
        return images.com_unit
    return units.get(name, "electrons")


def colours(name: str, image: np.ndarray) -> dict:
    """Colour map and limits: even about 0 for what has a sign, cyclic for directions."""
    if name == "direction":
        return {"cmap": "twilight", "vmin": -np.pi, "vmax": np.pi}
    known = image[np.isfinite(image)]
    low, high = np.quantile(known, [QUANTILE, 1 - QUANTILE]) if known.size else (0.0, 1.0)
    if name in DIVERGING:
        limit = max(abs(low), abs(high)) or 1.0
        return {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    return {"cmap": "viridis" if name == "magnitude" else "gray", "vmin": low, "vmax": high if high > low else low + 1}


def _draw_one(figure: Figure, axes: Axes, images: ScanImages, name: str) -> None:
    image = images.image(name)
    style = colours(name, image)
    axes.set_facecolor("#c8e6c9")  # what is not measured is neither dark nor bright nor 0
    if images.grid is not None:
        field, shape = images.grid.field, images.grid.shape
        half = np.array([field.width / (shape[1] - 1), field.height / (shape[0] - 1)]) / 2
        left, right, bottom, top = field.extent
        extent = (left - half[0], right + half[0], bottom - half[1], top + half[1])
        drawn = axes.imshow(image, origin="lower", extent=extent, interpolation="nearest", **style)
        scale_bar(axes, extent)
    else:
        drawn = axes.scatter(*images.positions.T, c=image, s=12, **style)
        axes.set_aspect("equal", "datalim")
    drawn.set_gid(name)
    axes.set(title=TITLES.get(name, name.replace("_", " ")), xlabel="x [nm]", ylabel="y [nm]")
    # Beside the image, as high as it is: the field need not be square.
    figure.colorbar(drawn, cax=axes.inset_axes((1.03, 0.0, 0.05, 1.0)), label=unit(images, name))


def scale_bar(axes: Axes, extent: tuple[float, float, float, float]) -> None:
    """A bar of a round length, at most a quarter of the field."""
    left, right, bottom, top = extent
    quarter = (right - left) / 4
    decade = 10.0 ** np.floor(np.log10(quarter))
    length = max(m for m in (1, 2, 5) if m * decade <= quarter) * decade
    x, y = left + 0.06 * (right - left), bottom + 0.06 * (top - bottom)
    for colour, width in (("black", 6), ("white", 4)):  # outlined: it has to be seen on both
        axes.plot([x, x + length], [y, y], color=colour, lw=width, solid_capstyle="butt")
    box = {"facecolor": "black", "edgecolor": "none", "alpha": 0.5, "pad": 1}
    axes.text(x + length / 2, y + 0.03 * (top - bottom), f"{length:g} nm", color="white", ha="center", bbox=box)
