"""The report of a closed-loop run: one HTML page with its pictures inside."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from .analysis import crystals
from .analysis.optics import Optics
from .callbacks.imaging_pictures import scale_bar
from .geometry import FieldOfView

MEV = 1e3


@dataclass(frozen=True)
class RunRecord:
    """A closed-loop run, read back from the catalog; without columns where it ended before its first batch."""

    start: dict[str, Any]
    stop: dict[str, Any]
    descriptors: dict[str, np.ndarray]  #: column to (n,), n probe positions
    energetics: dict[str, np.ndarray]  #: column to (n,)
    optimization: dict[str, np.ndarray]  #: column to (batches,), maps to (batches, ny, nx)
    frames: Any  #: (n, ny, nx), read lazily

    @classmethod
    def read(cls, run) -> RunRecord:
        """From a Tiled client of the run."""

        def columns(stream: str) -> dict[str, np.ndarray]:
            # A table at a time: column by column is four requests each, a hundred times. Not by xarray, which knows no
            # two dimensions of the same length, as the maps have.
            out: dict[str, np.ndarray] = {}
            parts = run[stream].base if stream in run else {}
            for name, part in parts.items():
                read = part.read()
                if isinstance(read, np.ndarray):
                    out[name] = read
                else:
                    out |= {key: np.array(read[key].tolist()) for key in read.columns}
            return out

        return cls(
            start=dict(run.metadata["start"]),
            stop=dict(run.metadata.get("stop") or {}),
            descriptors=columns("descriptors"),
            energetics=columns("energetics"),
            optimization=columns("optimization"),
            frames=run["primary"]["detector"] if "primary" in run and "detector" in run["primary"] else None,
        )

    @property
    def field(self) -> FieldOfView:
        """The field of view that was mapped."""
        return FieldOfView(**self.start["field_of_view"])

    @property
    def optics(self) -> Optics:
        """The beam and detector of the run."""
        return Optics(**self.start["optics"])


@dataclass(frozen=True)
class Score:
    """How a simulated run compares with the truth that the loop never saw."""

    rmse: float  #: of the energy map [eV]
    worst: float  #: largest error of the energy map [eV]
    coverage: float  #: fraction of the truth inside the 95 % intervals
    truth: np.ndarray  #: energies of the true structure on the map's grid (ny, nx) [eV]


def figures(record: RunRecord, score: Score | None = None) -> dict[str, tuple[float | str, str]]:
    """The figures of the run: name to value and unit."""
    positions = len(record.descriptors["x"])
    field, step = record.field, record.optics.nyquist_step
    nyquist = int(np.ceil(field.width / step) + 1) * int(np.ceil(field.height / step) + 1)
    last = {k: v[-1] for k, v in record.optimization.items()}
    converged = record.energetics["state"].astype(str) == "converged"
    out: dict[str, tuple[float | str, str]] = {
        "ended because": (str(last["stop"]), ""),
        "probe positions": (positions, ""),
        "positions of the Nyquist raster": (nyquist, ""),
        "share of the Nyquist raster": (100 * positions / nyquist, "%"),
        "largest posterior sd": (MEV * float(last["max_sd"]), "meV"),
        "target sd": (MEV * float(last["target_sd"]), "meV"),
        "DFT energies": (int(converged.sum()), ""),
        "their method": (", ".join(np.unique(record.energetics["method"].astype(str)).tolist()), ""),
        "of these known already": (int(record.energetics["cached"][converged].sum()), ""),
        "positions marked failed": (int((~converged).sum()), ""),
        "DFT time a calculation, median": (_median(record, converged), "s"),
        "loop overhead a batch, worst": (overhead(record).max(initial=0.0), "s"),
        "the same with fit and choice of positions": (
            overhead(record, ("acquire_s", "energetics_s")).max(initial=0.0),
            "s",
        ),
        "duration": (float(record.stop.get("time", np.nan)) - float(record.start["time"]), "s"),
    }
    if score is not None:
        out |= {
            "map RMSE against the true structure": (MEV * score.rmse, "meV"),
            "map RMSE over target sd": (score.rmse / float(last["target_sd"]), ""),
            "largest error of the map": (MEV * score.worst, "meV"),
            "truth inside 95 % intervals": (100 * score.coverage, "%"),
        }
    return out


def described(figures: dict[str, tuple[float | str, str]]) -> dict[str, str]:
    """Figures as text: numbers to four digits, counts whole."""

    def text(value: float | str) -> str:
        return str(value) if isinstance(value, str | int) else f"{value:.4g}"

    return {name: f"{text(value)} {unit}".strip() for name, (value, unit) in figures.items()}


def _median(record: RunRecord, converged: np.ndarray) -> float:
    computed = converged & (record.energetics["cached"] == 0)
    return float(np.median(record.energetics["wall_s"][computed])) if computed.any() else float("nan")


def overhead(record: RunRecord, left_out: tuple[str, ...] = ("acquire_s", "energetics_s", "recommend_s")) -> np.ndarray:
    """Time that each batch took beyond the steps `left_out` [s]; (batches - 1,).

    Between two rows of ``optimization`` lies one batch. What it did not spend at the microscope, on energies or, if
    that is left out too, in the Gaussian process is the loop's own.
    """
    o = record.optimization
    return np.diff(o["time"]) - sum(o[step][1:] for step in left_out)


def write_report(record: RunRecord, path: str | Path, how_to_query: str, score: Score | None = None) -> Path:
    """Write the report of a run.

    Parameters
    ----------
    record : RunRecord
        The run.
    path : path
        The HTML file to write.
    how_to_query : str
        Python that reads the run back.
    score : Score, optional
        Comparison with the truth, for a simulated run.
    """
    pictures = [
        ("Energy map and its uncertainty", _maps(record, score)),
        ("Visited positions, in order", _visits(record)),
        ("Convergence", _convergence(record)),
        ("Patterns, and what the network read from them", _patterns(record)),
    ]
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>"
        for name, value in described(figures(record, score)).items()
    )
    template = Template(files("bluesky_edgestem").joinpath("report.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=html.escape(record.start.get("sample") or record.start["uid"][:8]),
        uid=record.start["uid"],
        status=html.escape(record.stop.get("exit_status", "not ended")),
        figures=rows,
        pictures="".join(
            f'<figure><figcaption>{html.escape(t)}</figcaption><img alt="{html.escape(t)}" '
            f'src="data:image/png;base64,{p}"></figure>'
            for t, p in pictures
        ),
        query=html.escape(how_to_query),
        metadata=html.escape("\n".join(f"{k}: {v}" for k, v in sorted(record.start.items()))),
    )
    path = Path(path)
    path.write_text(page, encoding="utf-8")
    return path


def _png(figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()


def _figure(columns: int, width: float = 4.6, height: float = 4.2):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _map(figure, axes, image: np.ndarray, field: FieldOfView, title: str, **style):
    drawn = axes.imshow(MEV * image, origin="lower", extent=field.extent, interpolation="nearest", **style)
    axes.set(title=title, xlabel="x [nm]", ylabel="y [nm]")
    figure.colorbar(drawn, ax=axes, label="meV per formula unit")
    scale_bar(axes, field.extent)


def _maps(record: RunRecord, score: Score | None) -> str:
    mean, sd = record.optimization["energy_mean"][-1], record.optimization["energy_sd"][-1]
    figure, axes = _figure(2 if score is None else 4)
    top = MEV * float(np.max(mean if score is None else np.maximum(mean, score.truth)))
    _map(figure, axes[0], mean, record.field, "Energy, posterior mean", cmap="inferno", vmin=0, vmax=top)
    _map(figure, axes[1], sd, record.field, "Posterior standard deviation", cmap="viridis", vmin=0)
    if score is not None:
        _map(
            figure,
            axes[2],
            score.truth,
            record.field,
            "Energy of the true structure",
            cmap="inferno",
            vmin=0,
            vmax=top,
        )
        error = mean - score.truth
        limit = MEV * float(np.abs(error).max())
        _map(figure, axes[3], error, record.field, "Error of the map", cmap="RdBu_r", vmin=-limit, vmax=limit)
    return _png(figure)


def _visits(record: RunRecord) -> str:
    figure, (left, right) = _figure(2, width=5.4, height=4.6)
    x, y = record.descriptors["x"], record.descriptors["y"]
    order = np.arange(len(x))
    mean = record.optimization["energy_mean"][-1]
    left.imshow(mean, origin="lower", extent=record.field.extent, cmap="gray")
    left.plot(x, y, lw=0.5, color="tab:cyan", alpha=0.6)
    dots = left.scatter(x, y, c=order, s=16, cmap="plasma", zorder=3)
    figure.colorbar(dots, ax=left, label="order of visit")
    left.set(title="Over the energy map", xlabel="x [nm]", ylabel="y [nm]")
    energy = MEV * record.energetics["energy"]
    x, y = x[: len(energy)], y[: len(energy)]  # a run that was ended early may have patterns without an energy yet
    dots = right.scatter(x, y, c=energy, s=24, cmap="inferno")
    failed = np.isnan(energy)
    right.scatter(x[failed], y[failed], marker="x", color="red", label="failed")
    figure.colorbar(dots, ax=right, label="meV per formula unit")
    right.set(title="DFT energy at each position", xlabel="x [nm]", ylabel="y [nm]", aspect="equal")
    if failed.any():
        right.legend()
    return _png(figure)


def _convergence(record: RunRecord) -> str:
    figure, (axes,) = _figure(1, width=7, height=3.6)
    o = record.optimization
    axes.semilogy(o["positions"], MEV * o["max_sd"], "o-", label="largest over the field")
    axes.semilogy(o["positions"], MEV * o["mean_sd"], "s-", label="mean over the field")
    axes.axhline(MEV * float(o["target_sd"][-1]), color="black", ls="--", label="target")
    axes.set(xlabel="probe positions", ylabel="posterior sd [meV per formula unit]")
    axes.legend()
    return _png(figure)


def _patterns(record: RunRecord) -> str:
    """Patterns from the least to the most energetic position, with the reflections that the descriptors imply."""
    known = np.flatnonzero(np.isfinite(record.energetics["energy"]))
    if not len(known):
        known = np.arange(len(record.descriptors["x"]))
    ranked = known[np.argsort(record.energetics["energy"][known])]
    chosen = ranked[np.linspace(0, len(ranked) - 1, min(4, len(ranked))).round().astype(int)]
    figure, all_axes = _figure(max(len(chosen), 1), height=6.0)
    optics, d = record.optics, record.descriptors
    half = optics.n_pixels * optics.pixel_mrad / 2
    for axes, i in zip(all_axes, chosen, strict=False):
        frame = np.asarray(record.frames[int(i)]).reshape(optics.n_pixels, optics.n_pixels)
        axes.imshow(np.log10(1 + frame), origin="lower", extent=(-half, half, -half, half), cmap="magma")
        spots = _reflections(optics, [d["exx"][i], d["eyy"][i], d["exy"][i]], d["rotation"][i])
        spots = spots[(np.abs(spots) < half).all(axis=1)]
        for spot in spots:
            axes.add_patch(_circle(spot, optics.semiangle_mrad))
        axes.set(
            xlabel="x [mrad]",
            title=f"{d['phase'][i]}, {np.rad2deg(d['rotation'][i]):.1f} ± {np.rad2deg(d['rotation_sd'][i]):.2f}°\n"
            + "\n".join(f"{k} = {100 * d[k][i]:.2f} ± {100 * d[k + '_sd'][i]:.2f} %" for k in ("exx", "eyy", "exy"))
            + f"\n{MEV * record.energetics['energy'][i]:.1f} meV",
        )
        axes.title.set_fontsize(9)
    return _png(figure)


def _circle(centre: np.ndarray, radius: float):
    from matplotlib.patches import Circle

    return Circle(tuple(centre), radius, fill=False, lw=0.8, ec="cyan")


def _reflections(optics: Optics, strain, rotation: float) -> np.ndarray:
    """Where the deformed reference lattice diffracts to, (m, 2) [mrad]."""
    cell = crystals.REFERENCE.a * np.array([[1.0, 0.0], [-0.5, np.sqrt(3) / 2]])
    cell = cell @ crystals.deformation(np.asarray(strain, float), float(rotation)).T
    orders = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 2), -1).reshape(-1, 2)
    return 1e3 * optics.wavelength * orders @ np.linalg.inv(cell).T
