"""The energy map that a run builds: where it stands, how sure it is, where to measure next and when it is done.

Energy is not modelled over x and y. It is a function of strain, E = f(ε), and strain is what a diffraction pattern
tells; so the surrogate is a composite (see `composite`): Gaussian processes over the strain, and an elastic energy of
each phase that is fitted to the energies and stresses of this run. The same strain error costs little where the
crystal is relaxed and much where it is strained, so that the design follows the physics rather than filling the space
evenly. A position whose calculation failed still tells the strain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import qmc

from ..geometry import FieldOfView, ScanGrid
from . import crystals
from .acquisition import choose
from .composite import CompositeSurrogate
from .elasticity import ElasticModel
from .fields import Kernel, fit_strain_kernels
from .measurements import Measurement, StrainData
from .one_thread import one_thread
from .routing import travel_order
from .sheet import LocalState, Sheet

_CANDIDATES = 128  # a side, at most
_WORKING_SET = 768  # candidates that a choice weighs against each other: its cost is their square
_REFIT_GROWTH = 17 / 16  # of the measurements since the last fit: many data need no new fit for each batch
_BATCHES_WITHIN_TARGET = 2
_SPARE = 3  # a Sobol sequence is drawn two to the power of this times longer where positions have to keep apart


class EnergyMap:
    """Recommends positions until the energy map of a field of view is known to a target.

    It has the shape of bluesky-adaptive's `Optimizer`: `ingest`, `suggest`, `should_stop`, `checkpoint`.

    Parameters
    ----------
    field_of_view : FieldOfView
    target_sd : float
        Posterior standard deviation aimed at, everywhere in the field [eV].
    resolution : float
        Resolution of the probe [nm]: no two positions are closer, and a phase boundary located to within it is known.
    phases : sequence of str
        Formulae of the phases that may occur.
    map_shape : (ny, nx)
        Points of the map, edges included, at least 64 x 64: the target is checked on them.
    min_positions : int
        Positions with an energy before which a run never stops: kernels and elastic energies rest on them.
    seed : int
        Of the first, scrambled Sobol design, and of the draws of candidates.

    Attributes
    ----------
    map_grid : ScanGrid
        Where the map is.
    measurements : list of Measurement
        Every visited position, in order.
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
        self.phases = tuple(phase.formula for phase in crystals.monolayers(phases))
        self.map_grid = ScanGrid(field_of_view, map_shape[1], map_shape[0])
        nyquist = ScanGrid.with_step(field_of_view, resolution / 2)
        self._candidates = ScanGrid(field_of_view, min(nyquist.nx, _CANDIDATES), min(nyquist.ny, _CANDIDATES))
        self.min_positions, self.seed = int(min_positions), int(seed)
        self.measurements: list[Measurement] = []
        self._batches = 0
        self._within_target: list[int] = []  # how many positions there were, each batch running that met the target
        self._kernels: list[Kernel] | None = None
        self._levels = np.zeros(3)
        self._fitted_at = 0
        self._sheet: Sheet | None = None
        self._sheet_on_map: LocalState | None = None
        self._surrogate: CompositeSurrogate | None = None
        self._map: tuple[np.ndarray, np.ndarray] | None = None

    def ingest(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Learn from measurements, each the rows of `descriptors` and `energetics` of one position, joined.

        Parameters
        ----------
        points : sequence of mapping
            x, y [nm]; exx, eyy, exy, exx_sd, eyy_sd, exy_sd, cov_exx_eyy, cov_exx_exy, cov_eyy_exy; rotation [rad];
            phase, phase_probability; flagged (if not empty, only that the position was visited is taken); and, where
            state is "converged", energy [eV] and gradient (3,) [eV]. A position that is known already is completed:
            its energy may come later than its strain.

        Raises
        ------
        ValueError
            If a point has no finite x and y, or an unflagged one no finite strain or an unknown phase; nothing of
            `points` is then taken in.
        """
        taken = [Measurement.of(point) for point in points]
        for new in taken:
            if new.phase and new.phase not in self.phases:
                raise ValueError(
                    f"the map was made for the phases {', '.join(self.phases)}; the one at ({new.x:g}, {new.y:g}) nm "
                    f"is of {new.phase!r}: name it in phases="
                )
        place = {(m.x, m.y): index for index, m in enumerate(self.measurements)}
        for new in taken:
            index = place.setdefault((new.x, new.y), len(self.measurements))
            if index == len(self.measurements):
                self.measurements.append(new)
            else:
                self.measurements[index] = self.measurements[index].completed(new)
        if taken:
            self._surrogate = self._map = None

    def posterior(self, positions: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the energy [eV].

        Parameters
        ----------
        positions : (n, 2) array, optional
            x, y [nm]. Without it, the points of `map_grid`.

        Returns
        -------
        mean, sd : (n,) arrays, or (ny, nx) maps
        """
        # Matrices of this size gain little from a second thread, and lose tenfold where another process has its core.
        if positions is not None:
            with one_thread():
                at = self._refreshed().predict(np.asarray(positions, dtype=float).reshape(-1, 2))
            return at.mean, np.sqrt(at.variance)
        if self._map is None:
            with one_thread():
                surrogate = self._refreshed()
                if self._sheet_on_map is None:
                    self._sheet_on_map = surrogate.sheet.at(self.map_grid.positions)
                at = surrogate.energy(self._sheet_on_map)
            shape = self.map_grid.shape
            self._map = at.mean.reshape(shape), np.sqrt(at.variance).reshape(shape)
        return self._map

    @property
    def models(self) -> dict[str, ElasticModel]:
        """The energy as a function of strain, by phase, as this run's calculations tell it."""
        with one_thread():
            return dict(zip(self.phases, self._refreshed().models, strict=True))

    def should_stop(self) -> str | None:
        """Why to stop, or None: the target is met over the whole map, in two batches running.

        One batch does not suffice: the kernels' lengths are estimates, and one that comes out too long meets the
        target by mistake. The next batch tells. Nor do positions without an energy: a run that learnt nothing knows
        only its prior, however narrow that is.
        """
        count, largest = len(self.measurements), float(self.posterior()[1].max())
        with_energy = [m for m in self.measurements if math.isfinite(m.energy) and not m.flagged]
        if largest > self.target_sd:
            self._within_target = []
        elif not self._within_target or self._within_target[-1] < count:
            self._within_target.append(count)
        if len(self._within_target) < _BATCHES_WITHIN_TARGET or len(with_energy) < self.min_positions:
            return None
        if {m.phase for m in self.measurements if m.phase} - {m.phase for m in with_energy}:
            return None  # of such a phase only the prior is known, whatever its standard deviation says
        return (
            f"target reached: after {count} positions the largest standard deviation over the field, "
            f"{1e3 * largest:.2f} meV, is within the target of {1e3 * self.target_sd:.2f} meV"
        )

    def suggest(self, num_points: int = 1) -> np.ndarray:
        """The next positions, in the order to visit them.

        Without measurements, a scrambled Sobol design over the field; after that, the candidates that lower the
        energy's variance most, each chosen with the others in mind.

        Parameters
        ----------
        num_points : int

        Returns
        -------
        (n, 2) array
            x, y [nm] in the field; fewer than `num_points` only where no candidate is left that is as far as the
            probe's resolution from all others.
        """
        if num_points < 1:
            raise ValueError(f"suggest needs a number of points of at least 1, got {num_points}")
        rng = np.random.default_rng([self.seed, self._batches])
        self._batches += 1
        if not self.measurements:
            chosen, start = sobol_design(self.field_of_view, num_points, rng, self.resolution), None
        else:
            with one_thread():
                chosen = self._chosen(num_points, rng)
            start = np.array([self.measurements[-1].x, self.measurements[-1].y])
        return chosen[travel_order(chosen, start)]

    def checkpoint(self) -> dict[str, Any]:
        """All that is needed to go on as if nothing had happened, as values of JSON."""
        f = self.field_of_view
        kernels = self._kernels or []
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
            "within_target": list(self._within_target),
            "kernels": [{"lengths": k.lengths.tolist(), "amplitude": k.amplitude} for k in kernels],
            "levels": self._levels.tolist(),
            "fitted_at": self._fitted_at,
            "measurements": [m.plain() for m in self.measurements],
        }

    @classmethod
    def from_checkpoint(cls, state: Mapping[str, Any]) -> EnergyMap:
        """The map as it was when `checkpoint` gave `state`."""
        settings = dict(state["settings"])
        made = cls(FieldOfView(**settings.pop("field_of_view")), **settings)
        made.measurements = [Measurement.from_plain(row) for row in state["measurements"]]
        made._batches, made._within_target = int(state["batches"]), list(state["within_target"])
        made._levels, made._fitted_at = np.array(state["levels"]), int(state["fitted_at"])
        made._kernels = [Kernel(np.array(k["lengths"]), k["amplitude"]) for k in state["kernels"]] or None
        return made

    def _refreshed(self) -> CompositeSurrogate:
        """The surrogate for all that was taken in, its kernels refitted where that is due.

        Most of the work needs no energies, and what was made before they came is kept.
        """
        if self._surrogate is None:
            data = StrainData.of(self.measurements)
            if self._sheet is None or not data.reads_as(self._sheet.data):
                self._sheet, self._sheet_on_map = self._new_sheet(data), None
            self._surrogate = CompositeSurrogate(self._sheet, data)
        return self._surrogate

    def _new_sheet(self, data: StrainData) -> Sheet:
        size = max(self.field_of_view.width, self.field_of_view.height)
        if self._kernels is None or len(data) >= self._fitted_at * _REFIT_GROWTH:
            self._kernels, self._levels = fit_strain_kernels(
                data.positions, data.modes, data.noise, size, self._kernels
            )
            self._fitted_at = len(data)
        return Sheet(data, self._kernels, self._levels, self.phases, size, self.resolution)

    def _chosen(self, count: int, rng: np.random.Generator) -> np.ndarray:
        members = self._candidates.positions[self._working_set(rng)]
        surrogate = self._refreshed()
        at = surrogate.predict(members)
        visited = cKDTree([(m.x, m.y) for m in self.measurements])
        chosen = choose(
            surrogate.channels(members, at),
            at.variance,
            self.target_sd,
            visited.query(members)[0] >= self.resolution,
            members,
            self.resolution,
            count,
        )
        return members[chosen]

    def _working_set(self, rng: np.random.Generator) -> np.ndarray:
        """Indices of the candidates that a choice weighs: half drawn evenly, half by the map's variance."""
        sd = self.posterior()[1]
        row = np.rint(np.linspace(0, sd.shape[0] - 1, self._candidates.ny)).astype(int)
        column = np.rint(np.linspace(0, sd.shape[1] - 1, self._candidates.nx)).astype(int)
        variance = (sd[np.ix_(row, column)] ** 2).ravel()
        if len(variance) <= _WORKING_SET:
            return np.arange(len(variance))
        share = variance / variance.sum() + 1 / len(variance)
        # The largest keys u^(1/share) are a draw without replacement in proportion to the share.
        keys = np.log(rng.uniform(size=len(variance))) / share
        return np.sort(np.argpartition(keys, -_WORKING_SET)[-_WORKING_SET:])


def sobol_design(field_of_view: FieldOfView, count: int, rng: np.random.Generator, spacing: float = 0.0) -> np.ndarray:
    """Scrambled Sobol positions over the field, (count, 2) [nm].

    Where the field is small, some are left out and later ones of the sequence taken, so that none is closer to another
    than `spacing` [nm]; fewer than `count` where they do not fit.
    """
    if count < 1:
        raise ValueError(f"a Sobol design has 1 position or more, got {count}")
    spare = _SPARE if spacing > 0 else 0
    unit = qmc.Sobol(2, scramble=True, seed=rng).random_base2(max(1, math.ceil(math.log2(count))) + spare)
    drawn = np.array([field_of_view.x0, field_of_view.y0]) + unit * [field_of_view.width, field_of_view.height]
    if not spacing > 0:
        return drawn[:count]
    kept = np.empty((0, 2))
    for position in drawn:
        if len(kept) < count and (np.hypot(*(kept - position).T) >= spacing).all():
            kept = np.vstack([kept, position])
    return kept
