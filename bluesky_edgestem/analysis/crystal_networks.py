"""The crystal network: diffraction patterns of sheets and thick crystals to strain, rotation, material, thickness.

Given the reference lattices of the materials that may be there, it looks for each of them in a pattern and says which
it is; see `disk_network` for what it is made of. What trains it, from `crystal_training` down, is not imported here.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from . import disk_store, weights_file
from .counts import NO_COUNTS, as_counts, check_numbers
from .crystal_misfit import TOLERANCE
from .crystal_optics import beams_of, check
from .crystal_reading import read
from .crystal_refinement import choose, excess, refined
from .descriptor import FeatureDescriptors
from .disk_network import THICKNESS, DiskNetwork
from .doubts import Doubt, certain, flags, suspicion
from .lattice_view import PRIOR_SD, Beams, Lattice, strain_of
from .materials import material
from .optics import Optics
from .pixel_defects import gaps
from .projected_lattice import symmetry, wrapped
from .weights_file import WeightsFile

SHIPPED = weights_file.SHIPPED / "crystal.pt"
WEIGHTS = WeightsFile(b"EDGESTEM-CRYSTAL", 1, "crystal network")
#: Doses at which the standard deviations are calibrated [electrons per pattern].
DOSES = tuple(float(10**x) for x in np.arange(3.0, 6.1, 0.5))
#: Strain beyond which a lattice is another crystal's, or the calibration wrong: half as much again as training had.
LARGEST_STRAIN = 0.045
#: Log-odds of a pattern that the network is sure of.
LOG_ODDS = 18.0
#: Electrons in a frame, fewer than which show no lattice.
FEWEST = 100
#: Frames that go through the network together.
BATCH = 32
#: Standard deviation of a thickness of which nothing is known [nm]: that of 5 to 40 nm, all as likely.
THICKNESS_SD = 35 / np.sqrt(12)


class CrystalNetwork(nn.Module):
    """Strain, rotation, material, thickness and beam centre of crystals from patterns of separate disks.

    Parameters
    ----------
    materials : sequence of str
        What the network is for, of `materials.MATERIALS`.
    """

    #: `callbacks.Descriptors` has columns for thickness and beam centre.
    tells_thickness = True
    calibration: Tensor

    def __init__(self, materials: Sequence[str]) -> None:
        super().__init__()
        self.materials = tuple(materials)
        #: Those that may be there; fewer are faster and safer.
        self.among = self.materials
        #: What the projector lenses make of a pattern around the beam, as in `disk_patterns.compose`; from calibration.
        self.distortion = np.eye(2)
        #: Whether the likelihood has the last word where the disks of a material are known (`disk_store`).
        self.refines = True
        #: Part of the disks' fill that the library may be wrong by before a pattern is flagged; see `crystal_misfit`.
        self.tolerance = TOLERANCE
        self.disks = DiskNetwork(len(self.materials))
        self.register_buffer("calibration", torch.ones(len(self.materials), len(DOSES), 4, dtype=torch.float64))
        self.card: dict = {}

    def restricted(self, among: Sequence[str]) -> CrystalNetwork:
        """The network, told which materials may be there.

        Raises
        ------
        ValueError
            If one of them is none that it was trained for.
        """
        if unknown := [name for name in among if name not in self.materials]:
            raise ValueError(
                f"{', '.join(unknown) or 'no material'} is not among what the network was trained for: "
                f"{', '.join(self.materials)}; train one with `edgestem train descriptors --material ...`"
            )
        if not among:
            raise ValueError(f"name at least one material that may be there, of {', '.join(self.materials)}")
        self.among = tuple(dict.fromkeys(among))
        return self

    def beams(self, optics: Optics, name: str, count: int) -> Beams:
        """What the optics say of `count` patterns supposed to be of one material."""
        return beams_of(optics, self.materials, name, count, self.distortion, self.calibration.device)

    def check_optics(self, optics: Optics) -> None:
        """Raise ValueError where the network was not trained for such optics; the message says what it reads."""
        check(optics, self.among)

    @torch.no_grad()
    def predict(self, frames: np.ndarray, optics: Optics) -> FeatureDescriptors:
        """Read recorded frames.

        Parameters
        ----------
        frames : array (n, n_pixels, n_pixels)
            Electrons counted; rows along y. Integers, or floating point where counts were corrected.
        optics : Optics
            Beam and detector that recorded them; what they say of the background is not used.

        Returns
        -------
        FeatureDescriptors
            Where `flagged` gives a reason, the values are no better than what was known beforehand, and their standard
            deviations say so.

        Raises
        ------
        TypeError
            If frames are not numbers.
        ValueError
            If frames have another size than the optics say, or the optics are none the network can read.
        """
        frames = self._checked(frames, optics)
        starts = range(0, max(len(frames), 1), BATCH)
        return FeatureDescriptors.joined([self._predicted(frames[i : i + BATCH], optics) for i in starts])

    @torch.no_grad()
    def suspicion(self, frames: np.ndarray, optics: Optics) -> np.ndarray:
        """How unlike any of the supposed crystals frames (n, n_pixels, n_pixels) are, (n,).

        More than one is flagged: what `crystal_refinement.excess` says of the misfit, or, where no disks of the
        material are known at that energy, what the network's log-odds do; or the strain over `LARGEST_STRAIN`,
        whichever is more. Infinite where no pattern can be read. Raises as `predict` does.
        """
        frames = self._checked(frames, optics)
        parts = [self._told(frames[i : i + BATCH], optics)[-1] for i in range(0, len(frames), BATCH)]
        return np.concatenate([suspicion(doubts) for doubts in parts] or [np.zeros(0)])

    def _checked(self, frames: np.ndarray, optics: Optics) -> np.ndarray:
        frames = np.asarray(frames)
        check_numbers(frames.dtype)
        n = optics.n_pixels
        if frames.ndim != 3 or frames.shape[1:] != (n, n):
            raise ValueError(f"frames have shape {frames.shape}; these optics (n_pixels = {n}) need (any, {n}, {n})")
        self.check_optics(optics)
        return frames

    def _told(
        self, frames: np.ndarray, optics: Optics
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, list[Doubt]]:
        """What is said of frames, the number of the material of each, the materials' chances, and what is in doubt."""
        frames, broken = as_counts(frames)
        numbers = frames.astype(np.float32)
        counts = torch.from_numpy(numbers).to(self.calibration.device)
        dose = numbers.sum((1, 2))
        read_as = [self._supposing(counts, optics, name, dose) for name in self.among]

        def refine(number: int, which: np.ndarray) -> dict[str, np.ndarray] | None:
            name = self.among[number]
            table = disk_store.table(name, optics.energy_keV, counts.device) if self.refines else None
            if table is None:
                return None
            some = torch.from_numpy(which).to(counts.device)
            beams = self.beams(optics, name, len(which))
            return refined(table, counts[some], beams, read_as[number][1][some], self.tolerance)

        said, best, probability = choose([said for said, _ in read_as], refine, dose >= FEWEST)
        saturated = (frames == np.iinfo(frames.dtype).max).any((1, 2))
        return said, best, probability, self._doubts(said, dose, saturated, broken, bool(gaps(numbers).any()))

    def _doubts(
        self, said: dict[str, np.ndarray], dose: np.ndarray, saturated: np.ndarray, broken: np.ndarray, gap: bool
    ) -> list[Doubt]:
        among, fitted = " or ".join(self.among), ~np.isnan(said["misfit"])
        # Where only the network speaks: its log-odds below zero, in units of those of a pattern that it is sure of.
        odd = np.where(fitted, excess(said), 1 - said["genuine"] / LOG_ODDS)
        return [
            certain(broken, lambda i: NO_COUNTS),
            certain(dose == 0, lambda i: "no electrons: the frame is empty"),
            certain(saturated, lambda i: "saturated: a pixel reached the largest value of its type"),
            certain(np.full(len(dose), gap), lambda i: "a gap between the detector's modules, which it does not know"),
            certain(dose < FEWEST, lambda i: "too few electrons to find a lattice in"),
            Doubt(
                np.abs(said["strain"]).max(1, initial=0.0) / LARGEST_STRAIN,
                lambda i: (
                    f"strained by more than {100 * LARGEST_STRAIN:g} %: not a crystal of {among}, or the calibration "
                    "is wrong"
                ),
            ),
            Doubt(
                np.maximum(odd, 0.0),
                lambda i: (
                    f"not a crystal of {among}: no strain, thickness and mistilt of theirs leaves noise alone"
                    if fitted[i]
                    else f"not found to be a crystal of {among}: no lattice of theirs explains the disks"
                ),
            ),
        ]

    def _predicted(self, frames: np.ndarray, optics: Optics) -> FeatureDescriptors:
        chosen, best, probability, doubts = self._told(frames, optics)
        flagged = flags(doubts)
        known = flagged == ""
        prior = np.diag([PRIOR_SD[0] ** 2] * 3)
        folds = np.array([symmetry(material(name)) for name in self.among])[best]
        free = np.pi / folds / np.sqrt(3)
        return FeatureDescriptors(
            strain=np.where(known[:, None], chosen["strain"], 0.0),
            covariance=np.where(known[:, None, None], chosen["covariance"], prior),
            rotation=np.where(known, chosen["rotation"], 0.0),
            rotation_sd=np.where(known, np.minimum(chosen["rotation_sd"], free), free),
            phases=self.among,
            phase_probability=np.where(known[:, None], probability, 1 / len(self.among)),
            flagged=flagged,
            thickness=np.where(known, chosen["thickness"], np.nan),
            thickness_sd=np.where(known, chosen["thickness_sd"], THICKNESS_SD),
            centre=np.where(known[:, None], chosen["centre"], 0.0),
            centre_sd=np.where(known[:, None], chosen["centre_sd"], PRIOR_SD[2]),
        )

    def _supposing(
        self, counts: Tensor, optics: Optics, name: str, dose: np.ndarray
    ) -> tuple[dict[str, np.ndarray], Lattice]:
        """What the network says of the patterns if they are of one material, and where it sees its lattice."""
        crystal, index = material(name), self.materials.index(name)
        fold = symmetry(crystal)
        lattice, opinion, _ = read(self.disks, counts, self.beams(optics, name, len(counts)), fold)
        strain, rotation, covariance = strain_of(lattice, opinion.covariance)
        factors = self.calibration[index].cpu().numpy()
        at = np.log10(np.maximum(dose, 1.0))
        by = [np.interp(at, np.log10(DOSES), factors[:, k]) for k in range(4)]

        def array(values: Tensor) -> np.ndarray:
            return values.double().cpu().numpy()

        covariance = array(covariance)
        # Of a sheet with one number of layers the thickness is known.
        sure = crystal.max_layers == 1
        said = {
            "strain": array(strain),
            "covariance": covariance[:, :3, :3] * by[0][:, None, None] ** 2,
            "rotation": wrapped(array(rotation), fold),
            "rotation_sd": np.sqrt(covariance[:, 3, 3]) * by[1],
            "thickness": np.full(len(dose), crystal.spacing / 10)
            if sure
            else array(opinion.says("thickness")) * THICKNESS,
            "thickness_sd": by[2] * (0.0 if sure else array(opinion.says("thickness_log_sd").exp()) * THICKNESS),
            "centre": array(lattice.centre) - (counts.shape[-1] - 1) / 2,
            "centre_sd": array(opinion.covariance[:, [4, 5], [4, 5]].sqrt()) * by[3][:, None],
            "genuine": array(opinion.says("genuine")),
            "evidence": array(opinion.says("evidence")),
        }
        return said, lattice

    def save(self, path: Path, card: dict) -> None:
        """Write the weights with the facts of their training, under a checksum."""
        payload = io.BytesIO()
        kept = {"materials": self.materials, "among": self.among, "weights": self.state_dict(), "card": card}
        torch.save(kept, payload)
        WEIGHTS.write(path, payload.getvalue())

    @classmethod
    def pretrained(cls, path: Path | None = None, device: str | None = None) -> CrystalNetwork:
        """The network with weights from a file; without a path, those that ship with the package.

        Parameters
        ----------
        path : Path, optional
        device : str, optional
            A GPU where there is one, if not given.

        Raises
        ------
        ValueError
            If the file is missing, cut short, altered, or of another format or network; the message names it.
        """
        path = SHIPPED if path is None else Path(path)
        data = WEIGHTS.read(path)
        try:
            kept = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            network = cls(kept["materials"])
            network.load_state_dict(kept["weights"])
            network.restricted(kept["among"])
        except Exception as error:
            raise WEIGHTS.refusal(path, f"of another network ({str(error).splitlines()[0]})") from None
        network.card = kept["card"]
        where = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return network.eval().to(where)
