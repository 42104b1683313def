r"""Energy of a strained monolayer by density functional theory: GPAW with plane waves, through ASE.

Three things make one calculation of a low-symmetry cell short while energies relative to the relaxed phase are good to
below 1 meV:

- *Finite basis.* At a cutoff of 350 eV the number N of plane waves jumps as the cell deforms, and the energy with it
  (0.2 meV rms along a strain of 3 %). The correction of Francis and Payne (J. Phys.: Condens. Matter 2, 4395 (1990)),
  ``E - dE/dlnN ln(N/N0)`` with N0 the number that a continuous count would give, removes the jumps, and the
  corresponding term the Pulay stress, so that the gradient is that of the energy.
- *Relaxed ions without a relaxation.* The chalcogens are put where linear response takes them (`RelaxedCell`), and what
  force F remains is relaxed by one Newton step on paper: ``E - F²/2k``, and ``-F du/dε`` in the gradient.
- *Warm start.* A calculator is kept for each phase and begins from the wave functions of the structure before; results
  depend on that history by less than the convergence: 0.02 meV, and 0.02 eV rms (0.06 eV at most) in the gradient.

What the settings cost, measured by ``benchmarks/make_energy_table.py --check``: energy [meV] beside one by 500 eV,
12 x 12 k-points and 9 Å of vacuum, each relative to its own relaxed cell. The gradients differ by 0.02 to 0.11 eV for
MoS2 and by 0.01 to 0.05 eV for WS2, of 1 to 3 eV.

    =============  ========  =====  ==========  ========  =====  ==========
    \              MoS2                         WS2
    -------------  ---------------------------  ---------------------------
    strain [%]     standard  tight  difference  standard  tight  difference
    =============  ========  =====  ==========  ========  =====  ==========
    3, 3, 0        76.41     76.04  0.37        82.24     82.31  -0.07
    -3, -3, 0      85.74     85.47  0.27        93.50     92.92  0.58
    3, 0, 0        29.98     29.92  0.06        33.26     33.21  0.05
    -3, 0, 0       34.97     35.01  -0.04       39.22     38.95  0.27
    0, 0, 3        48.89     48.61  0.28        56.55     56.21  0.34
    2, -1.5, 1     21.96     22.01  -0.05       25.48     25.40  0.08
    -1, 2.5, 1.5   31.53     31.29  0.24        36.09     35.89  0.20
    0.5, -1, 0.4                                5.36      5.23   0.13
    =============  ========  =====  ==========  ========  =====  ==========

With clamped ions and 600 eV and 12 Å for the tight one, the differences of MoS2 were -0.05 to -0.31 meV. 5 x 5
k-points would be 2 meV off at ±3, ±3, 0. One calculation takes 2.1 s (median, one thread, a core of 2.6 GHz to itself).
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from ..analysis.crystals import monolayer, strain_tensor
from .method import STANDARD, DFTMethod, RelaxedCell, relaxed_cell
from .result import EnergyResult, rounded

if TYPE_CHECKING:
    from ase import Atoms

_BOHR, _HARTREE = 0.529177210903, 27.211386245988


_loading = threading.Lock()


def load_gpaw() -> None:
    """Import what a calculation needs; returns when it is there, also where another thread has begun.

    Threads that import GPAW at once wait for each other in a circle, which Python ends by handing out what is half
    imported.

    Raises
    ------
    ImportError
        If GPAW is not installed.
    """
    with _loading:
        import ase.build  # noqa: F401
        import gpaw.calculator
        import gpaw.new.ase_interface
        import gpaw.new.pw.builder  # noqa: F401


def strained_atoms(
    formula: str,
    strain: tuple[float, float, float],
    cell: RelaxedCell,
    vacuum: float,
    internal: np.ndarray | None = None,
) -> Atoms:
    """The primitive cell of a strained monolayer: metal, upper and lower chalcogen.

    Parameters
    ----------
    formula : str
        Phase.
    strain : (3,) floats
        exx, eyy, exy relative to `cell`, zigzag along x.
    cell : RelaxedCell
        The phase without strain.
    vacuum : float
        Between the layer and its periodic image [Å].
    internal : (3,) array, optional
        ux, uy and height of the chalcogens [Å]; as `cell` has them at this strain if left out.
    """
    from ase import Atoms

    phase = monolayer(formula)
    internal = cell.internal(strain) if internal is None else internal
    plane = cell.a * np.array([[1.0, 0.0], [-0.5, math.sqrt(3) / 2]]) @ (np.eye(2) + strain_tensor(np.array(strain)))
    vectors = np.zeros((3, 3))
    vectors[:2, :2] = plane
    # From the relaxed height: one that followed the strain would change the basis.
    vectors[2, 2] = 2 * cell.height + vacuum
    centre = np.array([0.0, 0.0, vectors[2, 2] / 2])
    x, y = np.array([1 / 3, 2 / 3]) @ plane + internal[:2]
    up = np.array([x, y, internal[2]])
    return Atoms(
        [phase.metal, phase.chalcogen, phase.chalcogen],
        positions=[centre, centre + up, centre + up * [1, 1, -1]],
        cell=vectors,
        pbc=True,
    )


def plane_waves(cell: np.ndarray, cutoff: float, kpoints: int) -> float:
    """Number of plane waves over that of a continuous count, ``V k³/6π²``, mean over the k-points.

    Parameters
    ----------
    cell : (3, 3) array
        Lattice vectors, third along z [Å].
    cutoff : float
        Largest kinetic energy [eV].
    kpoints : int
        k-points along each of the first two vectors, from Γ.
    """
    reciprocal = 2 * np.pi * np.linalg.inv(cell).T
    largest = math.sqrt(2 * cutoff / _HARTREE) / _BOHR  # [1/Å]
    reach = np.ceil(largest * np.linalg.norm(cell, axis=1) / (2 * np.pi)).astype(int) + 1
    i, j = (np.arange(-n * kpoints, (n + 1) * kpoints) / kpoints for n in reach[:2])
    k2 = ((i[:, None, None] * reciprocal[0] + j[None, :, None] * reciprocal[1]) ** 2).sum(-1)
    # G runs over the lattice along each axis and k over its fractions: together, a finer lattice.
    kz2 = (np.arange(-reach[2], reach[2] + 1) * reciprocal[2, 2]) ** 2
    number = np.count_nonzero(k2.reshape(-1, 1) + kz2 <= largest**2) / kpoints**2
    return number / (abs(np.linalg.det(cell)) * largest**3 / (6 * np.pi**2))


class MonolayerDFT:
    """Calculates one phase at any strain.

    Parameters
    ----------
    formula : str
        Phase; unknown ones raise a ValueError that lists those known.
    method : DFTMethod
        Settings.
    cell : RelaxedCell, optional
        The phase without strain; from the committed table if left out.
    """

    def __init__(self, formula: str, method: DFTMethod = STANDARD, cell: RelaxedCell | None = None) -> None:
        monolayer(formula)
        load_gpaw()
        self.formula, self.method = formula, method
        self.cell = relaxed_cell(formula, method) if cell is None else cell
        self._calculator: Any = None

    def result(self, strain: tuple[float, float, float], time_limit: float = math.inf) -> EnergyResult:
        """Energy and gradient at `strain`; a calculation that gives none is a result too.

        Parameters
        ----------
        strain : (3,) floats
            exx, eyy, exy relative to the relaxed phase, zigzag along x.
        time_limit : float
            Longest duration [s], looked at after each iteration.
        """
        from gpaw import KohnShamConvergenceError

        begun = time.monotonic()
        try:
            strain = rounded(strain)
            energy, gradient, forces = self.raw(
                strained_atoms(self.formula, strain, self.cell, self.method.vacuum), time_limit
            )
        except Exception as error:
            # Half-converged wave functions are no start for the next structure.
            self._calculator = None
            reason = f"{type(error).__name__}: {error}"
            if isinstance(error, KohnShamConvergenceError):
                reason = f"not converged after {self.method.iterations} iterations"
            elif isinstance(error, TimeoutError | ValueError):
                reason = str(error)
            return EnergyResult.failed(self.formula, strain, reason, self.method.name, time.monotonic() - begun)
        if self.method.relax_internal:
            energy -= float(np.sum(forces**2 / (2 * self.cell.stiffness)))
            gradient = gradient - forces @ self.cell.internal_slopes
        gxx, gyy, gxy = (float(g) for g in gradient)
        return EnergyResult(
            self.formula, strain, energy - self.cell.energy, (gxx, gyy, gxy), "converged", "", False,
            time.monotonic() - begun, self.method.name,
        )  # fmt: skip

    def raw(self, atoms: Atoms, time_limit: float = math.inf) -> tuple[float, np.ndarray, np.ndarray]:
        """Total energy [eV], its gradient (3,) by the cell's strain [eV], forces (3,) on ux, uy and height [eV/Å].

        The gradient is by a further strain added to that of `atoms`, whose unstrained cell is `self.cell`.

        Raises
        ------
        TimeoutError
            After `time_limit` [s].
        gpaw.KohnShamConvergenceError
            After `method.iterations`.
        """
        begun = time.monotonic()
        if self._calculator is None:
            self._calculator = self._new_calculator()
        # The iteration is GPAW's own; stepping through it is how a limit can end it.
        for context in self._calculator.iconverge(atoms):
            if time.monotonic() - begun > time_limit:
                raise TimeoutError(f"not converged within {time_limit:g} s, at iteration {context.niter}")
        energy = self._calculator.get_potential_energy(atoms)
        force = self._calculator.get_forces(atoms)
        xx, yy, _, _, _, xy = self._calculator.get_stress(atoms)
        basis = math.log(plane_waves(np.array(atoms.cell), self.method.cutoff, self.method.kpoints))
        energy -= self.cell.basis_slope * basis
        # dE = V σ:(dF F⁻¹), and the plane waves at constant cutoff number as the volume.
        deformation = np.linalg.solve(_unstrained(self.cell.a), np.array(atoms.cell)[:2, :2])
        kirchhoff = atoms.get_volume() * np.array([[xx, xy], [xy, yy]]) + self.cell.basis_slope * np.eye(2)
        first = kirchhoff @ np.linalg.inv(deformation)
        gradient = np.array([first[0, 0], first[1, 1], first[0, 1] + first[1, 0]])
        forces = np.array([*(force[1, :2] + force[2, :2]), force[1, 2] - force[2, 2]])
        return float(energy), gradient, forces

    def _new_calculator(self) -> Any:
        from gpaw import GPAW, PW

        m = self.method
        return GPAW(
            mode=PW(m.cutoff),
            xc=m.xc,
            kpts={"size": (m.kpoints, m.kpoints, 1), "gamma": True},
            gpts=m.grid,
            nbands=m.bands,
            occupations={"name": "fermi-dirac", "width": m.smearing},
            mixer={"backend": "pulay", "beta": 0.8, "nmaxold": 8, "weight": 20},
            convergence={
                "density": m.density_tolerance,
                "energy": m.energy_tolerance,
                "eigenstates": m.state_tolerance,
            },
            # Faster here than GPAW's choice, whose inner loop gives up early where the tolerance is this loose.
            eigensolver={"name": "davidson", "niter": 2},
            maxiter=m.iterations,
            txt=None,
        )


def _unstrained(a: float) -> np.ndarray:
    return a * np.array([[1.0, 0.0], [-0.5, math.sqrt(3) / 2]])
