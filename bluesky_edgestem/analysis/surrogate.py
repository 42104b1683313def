"""The energy map that a run builds: where it stands, how sure it is, where to measure next and when it is done.

Energy is not modelled over x and y. It is a function of strain, E = f(ε), and strain is what a diffraction pattern tells;
so the surrogate is a composite: Gaussian processes over the strain, and an elastic energy f for each phase, fitted to the
energies and stresses of this run. The energy's posterior follows by matching moments to the second order in the strain's
variance, with the gradient g and the curvature H of f at the mean strain:

    mean      f + ½ tr(HΣ)
    variance  gᵀΣg + ½ tr((HΣ)²)  +  that of f itself  +  that of not knowing phase and rotation

The same strain error costs little where the crystal is relaxed and much where it is strained, so that the design follows
the physics rather than filling the space evenly. A position whose calculation failed still tells the strain.

Source: R. Astudillo, P. I. Frazier, Bayesian optimization of composite functions, ICML 2019.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import ndtr, owens_t

from ..geometry import FieldOfView, ScanGrid
from . import crystals
from .acquisition import Channel, choose
from .elasticity import MODES, ElasticModel, curvatures, fit_elastic_model, term_slopes, terms, to_modes
from .fields import Field, Kernel, fit_strain_kernels, label_field
from .routing import travel_order

_WORKING_SET = 1024  # positions that a choice weighs against each other: its cost is their square
_LABEL_NOISE = 0.02  # variance of a phase label of ±1 and of cos 6θ
_NO_NOISE_YET = 1e-3  # strain: standard deviation expected of a measurement before the first


@dataclass
class Measurement:
    """What is known of one visited position. Units as in the streams: nm, rad, eV; strain in image axes."""

    x: float
    y: float
    flagged: str = ""
    strain: tuple[float, float, float] | None = None
    covariance: list[list[float]] = field(default_factory=list)
    rotation: float = 0.0
    phase: str = ""
    phase_probability: float = 1.0
    formula: str = ""
    energy: float = math.nan
    gradient: tuple[float, float, float] = (math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Posterior:
    """The energy and what it rests on, at k positions: energies [eV], strain modes and their variances (k, 3)."""

    mean: np.ndarray
    variance: np.ndarray
    modes: np.ndarray
    mode_variance: np.ndarray
    slope2: np.ndarray
    curvature2: np.ndarray
    phase_variance: np.ndarray


class EnergyMap:
    """Recommends positions until the energy map of a field of view is known to a target.

    It has the shape of bluesky-adaptive's `Optimizer`: `ingest`, `suggest`, `should_stop`, `checkpoint`.

    Parameters
    ----------
    field_of_view : FieldOfView
    target_sd : float
        Posterior standard deviation aimed at, everywhere in the field [eV].
    resolution : float
        Resolution of the probe [nm]; no two positions are closer than it.
    phases : sequence of str
        Formulae of the phases that may occur.
    map_shape : (ny, nx)
        Points of the map, edges included, at least 64 x 64: the target is checked on them.
    min_positions : int
        Positions before which a run never stops: the kernels rest on them.
    seed : int
        Of the first, scrambled Sobol design, and of the draws of candidates.
    """

    def __init__(
        self,
        field_of_view: FieldOfView,
        target_sd: float,
        resolution: float,
        phases: Sequence[str] = ("MoS2", "WS2"),
        map_shape: tuple[int, int] = (64, 64),
        min_positions: int = 32,
        seed: int = 0,
    ):
        if not target_sd > 0:
            raise ValueError(f"target_sd is a standard deviation [eV] above 0, got {target_sd}")
        if not resolution > 0:
            raise ValueError(f"the probe's resolution is above 0 nm, got {resolution}")
        if min(map_shape) < 64:
            raise ValueError(f"the target is checked on a map of at least 64 x 64 points, got map_shape={map_shape}")
        self.field_of_view, self.target_sd, self.resolution = field_of_view, float(target_sd), float(resolution)
        self.phases = tuple(crystals.monolayer(phase).formula for phase in phases)
        self.map_grid = ScanGrid(field_of_view, map_shape[1], map_shape[0])
        nyquist = ScanGrid.with_step(field_of_view, resolution / 2)
        self.candidates = ScanGrid(field_of_view, min(nyquist.nx, 128), min(nyquist.ny, 128))
        self.min_positions, self.seed = int(min_positions), int(seed)
        self.measurements: list[Measurement] = []
        self._batches = 0
        self._met_at: list[int] = []
        self._kernels: list[Kernel] | None = None
        self._levels = np.zeros(3)
        self._fitted_at = 0
        self._surrogate: _Surrogate | None = None
        self._map: Posterior | None = None

    # -- what came in

    def ingest(self, points: Sequence[Mapping]) -> None:
        """Take in measurements, as rows of the `descriptors` and `energetics` streams joined by position.

        Parameters
        ----------
        points : sequence of mapping
            x, y [nm]; exx, eyy, exy; exx_sd, eyy_sd, exy_sd; cov_exx_eyy, cov_exx_exy, cov_eyy_exy; rotation [rad]; phase,
            phase_probability; flagged (not empty: nothing is learnt, only that it was visited); and, where a calculation
            converged, energy [eV], gradient (3,) [eV], formula. A position that is known already is completed: its
            energy may come later than its strain.

        Raises
        ------
        ValueError
            If a point has no finite x and y, or an unflagged one no strain; nothing of `points` is then taken in.
        """
        taken = [_measurement(point) for point in points]
        known = {(m.x, m.y): index for index, m in enumerate(self.measurements)}
        for new in taken:
            place = known.setdefault((new.x, new.y), len(self.measurements))
            if place == len(self.measurements):
                self.measurements.append(new)
            else:
                self.measurements[place] = _completed(self.measurements[place], new)
        if taken:
            self._surrogate = self._map = None

    # -- what is known

    def posterior(self, positions: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the energy [eV].

        Parameters
        ----------
        positions : (n, 2) array, optional
            x, y [nm]. Without it, the map's grid.

        Returns
        -------
        mean, sd : (n,) arrays, or (ny, nx) maps
        """
        if positions is not None:
            at = self._refreshed().predict(np.asarray(positions, dtype=float).reshape(-1, 2))
            return at.mean, np.sqrt(at.variance)
        if self._map is None:
            self._map = self._refreshed().predict(self.map_grid.positions)
        shape = self.map_grid.shape
        return self._map.mean.reshape(shape), np.sqrt(self._map.variance).reshape(shape)

    @property
    def models(self) -> dict[str, ElasticModel]:
        """The energy as a function of strain, by phase, as this run's calculations tell it."""
        return dict(zip(self.phases, self._refreshed().models, strict=True))

    def should_stop(self) -> str | None:
        """Why to stop, or None: the target is met over the whole field, in two batches running.

        One batch does not suffice, since the kernels' lengths are themselves estimates, and a batch that lengthens
        them may meet the target by mistake.
        """
        count = len(self.measurements)
        largest = float(self.posterior()[1].max())
        if largest > self.target_sd:
            self._met_at = []
        elif not self._met_at or self._met_at[-1] < count:
            self._met_at.append(count)
        if len(self._met_at) < 2 or count < self.min_positions:
            return None
        return (
            f"target reached: largest standard deviation {1e3 * largest:.2f} meV is within the target of "
            f"{1e3 * self.target_sd:.2f} meV after {count} positions"
        )

    # -- where to go

    def suggest(self, num_points: int = 1) -> np.ndarray:
        """The next positions, in the order to visit them.

        Without measurements, a scrambled Sobol design over the field; after that, the candidates that lower the
        energy's variance most.

        Parameters
        ----------
        num_points : int

        Returns
        -------
        (n, 2) array
            x, y [nm] inside the field; fewer than `num_points` only where no candidate is left that is farther than the
            probe's resolution from all positions.
        """
        if num_points < 1:
            raise ValueError(f"suggest needs a number of points of at least 1, got {num_points}")
        rng = np.random.default_rng([self.seed, self._batches])
        self._batches += 1
        if not self.measurements:
            chosen, start = sobol_design(self.field_of_view, num_points, rng), None
        else:
            chosen = self._next(num_points, rng)
            start = np.array([self.measurements[-1].x, self.measurements[-1].y])
        return chosen[travel_order(chosen, start)]

    def _next(self, count: int, rng: np.random.Generator) -> np.ndarray:
        surrogate = self._refreshed()
        visited = np.array([(m.x, m.y) for m in self.measurements])
        grid = self.candidates.positions
        members = grid[self._working_set(rng)]
        at = surrogate.predict(members)
        chosen = choose(
            surrogate.channels(members, at),
            at.variance,
            self.target_sd,
            _farther_than(members, visited, self.resolution),
            members,
            self.resolution,
            count,
        )
        return members[chosen]

    def _working_set(self, rng: np.random.Generator) -> np.ndarray:
        """Indices of the candidates that a choice weighs: half drawn evenly, half in proportion to the map's variance."""
        sd = self.posterior()[1]
        row = np.rint(np.linspace(0, sd.shape[0] - 1, self.candidates.ny)).astype(int)
        column = np.rint(np.linspace(0, sd.shape[1] - 1, self.candidates.nx)).astype(int)
        variance = (sd[np.ix_(row, column)] ** 2).ravel()
        if len(variance) <= _WORKING_SET:
            return np.arange(len(variance))
        share = variance / variance.sum() + 1 / len(variance)
        # The largest keys u^(1/share) are a draw without replacement in proportion to the share.
        keys = np.log(rng.uniform(size=len(variance))) / share
        return np.sort(np.argpartition(keys, -_WORKING_SET)[-_WORKING_SET:])

    # -- state

    def checkpoint(self) -> dict:
        """All that is needed to go on as if nothing had happened, as plain JSON values."""
        f = self.field_of_view
        kernels = self._kernels and [
            {"lengths": kernel.lengths.tolist(), "amplitude": kernel.amplitude} for kernel in self._kernels
        ]
        return {
            "settings": {
                "field_of_view": {"x0": f.x0, "y0": f.y0, "width": f.width, "height": f.height},
                "target_sd": self.target_sd,
                "resolution": self.resolution,
                "phases": list(self.phases),
                "map_shape": list(self.map_grid.shape),
                "min_positions": self.min_positions,
                "seed": self.seed,
            },
            "batches": self._batches,
            "met_at": self._met_at,
            "kernels": kernels,
            "levels": self._levels.tolist(),
            "fitted_at": self._fitted_at,
            "measurements": [_plain(m) for m in self.measurements],
        }

    @classmethod
    def from_checkpoint(cls, state: Mapping) -> EnergyMap:
        """The map as it was when `checkpoint` gave `state`."""
        settings = dict(state["settings"])
        made = cls(FieldOfView(**settings.pop("field_of_view")), **settings)
        made.measurements = [Measurement(**_unplain(m)) for m in state["measurements"]]
        made._batches, made._met_at = int(state["batches"]), list(state["met_at"])
        made._levels, made._fitted_at = np.array(state["levels"]), int(state["fitted_at"])
        if state["kernels"]:
            made._kernels = [Kernel(np.array(k["lengths"]), k["amplitude"]) for k in state["kernels"]]
        return made

    def _refreshed(self) -> _Surrogate:
        if self._surrogate is None:
            good = [m for m in self.measurements if not m.flagged]
            data = _StrainData.of(good)
            size = max(self.field_of_view.width, self.field_of_view.height)
            # Six numbers need no new fit for every batch once many positions are in: 1/16 more of them, at least.
            if self._kernels is None or len(good) > self._fitted_at * 17 / 16:
                self._kernels, self._levels = fit_strain_kernels(
                    data.positions, data.modes, data.noise, size, self._kernels
                )
                self._fitted_at = len(good)
            self._surrogate = _Surrogate(good, data, self._kernels, self._levels, self.phases, size, self.resolution)
        return self._surrogate


def sobol_design(field_of_view: FieldOfView, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 2) scrambled Sobol positions over the field [nm]."""
    from scipy.stats import qmc

    unit = qmc.Sobol(2, scramble=True, seed=rng).random_base2(max(1, math.ceil(math.log2(count))))[:count]
    corner = np.array([field_of_view.x0, field_of_view.y0])
    return corner + unit * np.array([field_of_view.width, field_of_view.height])


@dataclass(frozen=True)
class _StrainData:
    positions: np.ndarray  # (n, 2) [nm]
    modes: np.ndarray  # (n, 3)
    noise: np.ndarray  # (n, 3) variances

    @classmethod
    def of(cls, measurements: list[Measurement]) -> _StrainData:
        positions = np.array([(m.x, m.y) for m in measurements]).reshape(-1, 2)
        strain = np.array([m.strain for m in measurements], dtype=float).reshape(-1, 3)
        covariance = np.array([m.covariance for m in measurements], dtype=float).reshape(-1, 3, 3)
        noise = np.einsum("ki,nij,kj->nk", MODES, covariance, MODES)
        return cls(positions, to_modes(strain), np.maximum(noise, 1e-12))


class _Surrogate:
    """The composite's posterior at one state of the data."""

    def __init__(
        self,
        measurements: list[Measurement],
        data: _StrainData,
        kernels: list[Kernel],
        levels: np.ndarray,
        phases: tuple[str, ...],
        size: float,
        resolution: float,
    ):
        self.phases, self.resolution = phases, resolution
        self.strain = [
            Field(kernel, data.positions, data.modes[:, k], data.noise[:, k], levels[k])
            for k, kernel in enumerate(kernels)
        ]
        default = np.full(3, _NO_NOISE_YET**2) * np.sum(MODES**2, axis=1)
        self.noise = np.median(data.noise, axis=0) if len(data.noise) else default
        angle = 6 * np.array([m.rotation for m in measurements])
        self.hexad = label_field(data.positions, np.column_stack([np.cos(angle), np.sin(angle)]), _LABEL_NOISE, size)
        self.phase = label_field(data.positions, _phase_labels(measurements, phases), _LABEL_NOISE, size)
        self.models = [_fit_phase(measurements, phase) for phase in phases]

    def predict(self, at: np.ndarray) -> Posterior:
        """The posterior at positions (k, 2) [nm]."""
        means, variances = zip(*(process.predict(at) for process in self.strain), strict=True)
        modes, mode_variance = np.stack(means, axis=-1), np.stack(variances, axis=-1)
        hexad = self.hexad.predict(at)[0]
        certainty = np.minimum(np.linalg.norm(hexad, axis=1), 1.0)
        hexad = hexad / np.maximum(np.linalg.norm(hexad, axis=1), 1.0)[:, None]
        probability, unknown = self._phase_shares(at)
        mean, square = np.zeros(len(at)), np.zeros(len(at))
        within, slope2, curvature2 = np.zeros(len(at)), np.zeros_like(modes), np.zeros_like(modes)
        for p, phase, model in zip(probability.T, self.phases, self.models, strict=True):
            own, scale = own_modes(modes, phase)
            slope = scale * (term_slopes(own, hexad) @ model.coefficients)
            curvature = scale**2 * curvatures(own, hexad, model.coefficients)
            energy = terms(own, hexad) @ model.coefficients + 0.5 * np.einsum("kii,ki->k", curvature, mode_variance)
            within += (
                p
                * (
                    np.sum(slope**2 * mode_variance, axis=1)
                    + 0.5 * np.einsum("kij,ki,kj->k", curvature**2, mode_variance, mode_variance)
                    + model.sd(own, hexad) ** 2
                    # An unknown rotation leaves the orientation of the three-fold term open.
                    + 0.5 * (model.coefficients[6] * (1 - certainty)) ** 2 * np.sum(own[:, 1:] ** 2, axis=1) ** 3
                )
            )
            mean += p * energy
            square += p * energy**2
            slope2 += p[:, None] * slope**2
            curvature2 += p[:, None] * np.einsum("kii->ki", curvature) ** 2
        between = unknown * np.maximum(square - mean**2, 0.0)
        return Posterior(mean, within + between, modes, mode_variance, slope2, curvature2, between)

    def _phase_shares(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expected share of each phase under the probe (k, phases), and the part (k,) of p (1 - p) that is unknown.

        A label f ~ N(m, v) is above the middle in a share Φ(f / s) of the probe, where s is how much m changes across it.
        Of the share, the mean is p = Φ(a), a = m / √(v + s²), and the variance Φ₂(a, a; r) - p² with r = v / (v + s²):
        without s this were p (1 - p), and on a boundary no measurement would ever lower it.
        """
        mean, variance = self.phase.predict(at)
        spread = np.zeros_like(mean)
        for step in self.resolution * np.eye(2):
            spread += 0.25 * (self.phase.mean(at + step) - self.phase.mean(at - step)) ** 2
        total = variance[:, None] + spread
        argument = mean / np.sqrt(total)
        share = ndtr(argument)
        correlation = variance[:, None] / total
        joint = share - 2 * owens_t(argument, np.sqrt((1 - correlation) / (1 + correlation)))
        unknown = np.sum(joint - share**2, axis=1) / np.maximum(np.sum(share * (1 - share), axis=1), 1e-12)
        return share / share.sum(axis=1, keepdims=True), np.clip(unknown, 0.0, 1.0)

    def channels(self, at: np.ndarray, posterior: Posterior) -> list[Channel]:
        """What a measurement at one of `at` (m, 2) tells of the others: three strain modes, and the phase."""
        made = [
            Channel(
                process.covariance(at, at), float(self.noise[k]), posterior.slope2[:, k], posterior.curvature2[:, k]
            )
            for k, process in enumerate(self.strain)
        ]
        if len(self.phases) > 1:
            covariance = self.phase.covariance(at, at)
            slope2 = posterior.phase_variance / np.maximum(np.diagonal(covariance), 1e-9)
            made.append(Channel(covariance, _LABEL_NOISE, slope2, np.zeros(len(at))))
        return made


def own_modes(modes: np.ndarray, phase: str) -> tuple[np.ndarray, float]:
    """Modes (..., 3) relative to the reference lattice as modes relative to a phase's own, and the factor of their change."""
    scale = crystals.REFERENCE.a / crystals.monolayer(phase).a
    return scale * modes + np.array([2 * (scale - 1), 0.0, 0.0]), scale


def _fit_phase(measurements: list[Measurement], phase: str) -> ElasticModel:
    done = [m for m in measurements if (m.formula or m.phase) == phase and math.isfinite(m.energy)]
    strain = np.array([m.strain for m in done], dtype=float).reshape(-1, 3)
    rotation = np.array([m.rotation for m in done], dtype=float)
    own = crystals.phase_strain(strain, rotation, phase)
    return fit_elastic_model(own, np.array([m.energy for m in done]), np.array([m.gradient for m in done]))


def _phase_labels(measurements: list[Measurement], phases: tuple[str, ...]) -> np.ndarray:
    """(n, phases) labels from -1 (surely not) to 1 (surely)."""
    others = max(len(phases) - 1, 1)
    rows = [
        [m.phase_probability if m.phase == phase else (1 - m.phase_probability) / others for phase in phases]
        for m in measurements
    ]
    return 2 * np.array(rows, dtype=float).reshape(-1, len(phases)) - 1


def _farther_than(grid: np.ndarray, visited: np.ndarray, distance: float) -> np.ndarray:
    return cKDTree(visited).query(grid)[0] >= distance


def _measurement(point: Mapping) -> Measurement:
    x, y = float(point.get("x", math.nan)), float(point.get("y", math.nan))
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"a measurement needs finite x and y [nm], got x={point.get('x')!r}, y={point.get('y')!r}")
    made = Measurement(x, y, flagged=str(point.get("flagged", "")))
    if "exx" in point:
        made.strain = (float(point["exx"]), float(point["eyy"]), float(point["exy"]))
        made.covariance = _covariance(point)
        made.rotation = float(point.get("rotation", 0.0))
        made.phase, made.phase_probability = str(point["phase"]), float(point.get("phase_probability", 1.0))
        if not made.flagged and not (np.isfinite(made.strain).all() and np.isfinite(made.covariance).all()):
            raise ValueError(
                f"the strain at ({x:g}, {y:g}) nm is not finite: {made.strain}. A pattern that could not be read must be "
                "flagged with the reason"
            )
    energy = point.get("energy")
    if energy is not None and point.get("state", "converged") == "converged" and math.isfinite(float(energy)):
        made.energy, made.formula = float(energy), str(point.get("formula", ""))
        gradient = point.get("gradient")
        if gradient is not None:
            made.gradient = (float(gradient[0]), float(gradient[1]), float(gradient[2]))
    return made


def _covariance(point: Mapping) -> list[list[float]]:
    """(3, 3) covariance of the strain from the columns of the `descriptors` stream."""
    xx, yy, xy = (float(point[name]) ** 2 for name in ("exx_sd", "eyy_sd", "exy_sd"))
    xx_yy, xx_xy, yy_xy = (float(point.get(k, 0.0)) for k in ("cov_exx_eyy", "cov_exx_exy", "cov_eyy_exy"))
    return [[xx, xx_yy, xx_xy], [xx_yy, yy, yy_xy], [xx_xy, yy_xy, xy]]


def _completed(old: Measurement, new: Measurement) -> Measurement:
    """What is known of a position after a second row about it."""
    strain_of = new if new.strain is not None else old
    energy_of = new if math.isfinite(new.energy) else old
    return Measurement(
        old.x,
        old.y,
        flagged=new.flagged or old.flagged,
        strain=strain_of.strain,
        covariance=strain_of.covariance,
        rotation=strain_of.rotation,
        phase=strain_of.phase,
        phase_probability=strain_of.phase_probability,
        formula=energy_of.formula,
        energy=energy_of.energy,
        gradient=energy_of.gradient,
    )


def _plain(m: Measurement) -> dict:
    """A measurement as JSON values: JSON has no nan."""
    row = {f.name: getattr(m, f.name) for f in fields(m)}
    row["energy"] = m.energy if math.isfinite(m.energy) else None
    row["gradient"] = list(m.gradient) if np.isfinite(m.gradient).all() else None
    row["strain"] = list(m.strain) if m.strain is not None else None
    return row


def _unplain(row: Mapping) -> dict:
    made = dict(row)
    made["energy"] = math.nan if row["energy"] is None else row["energy"]
    made["gradient"] = (math.nan,) * 3 if row["gradient"] is None else tuple(row["gradient"])
    made["strain"] = None if row["strain"] is None else tuple(row["strain"])
    return made
