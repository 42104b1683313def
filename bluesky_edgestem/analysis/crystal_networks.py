"""The crystal network: diffraction patterns of sheets and thick crystals to strain, rotation, material, thickness.

Given the reference lattices of the materials that may be there, it looks for each of them in a pattern and says which
it is; see `disk_network` for what it is made of. Nothing here imports what trains it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from . import weights_file
from .crystal_reading import read
from .descriptor import FeatureDescriptors
from .disk_network import THICKNESS, DiskNetwork
from .lattice_view import PRIOR_SD, SPOTS, Beams, strain_of, supposed
from .materials import material
from .optics import Optics
from .projected_lattice import first_order, symmetry, wrapped
from .weights_file import WeightsFile

SHIPPED = weights_file.SHIPPED / "crystal.pt"
WEIGHTS = WeightsFile(b"EDGESTEM-CRYSTAL", 1, "crystal network")
#: Doses at which the standard deviations are calibrated [electrons per pattern].
DOSES = tuple(float(10**x) for x in np.arange(3.0, 6.1, 0.5))
#: Strain beyond which a lattice is another crystal's, or the calibration wrong: half as much again as training had.
LARGEST_STRAIN = 0.045
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
        device = self.calibration.device

        def full(value: float) -> Tensor:
            return torch.full((count,), value, dtype=torch.float32, device=device)

        bend = torch.tensor(self.distortion, dtype=torch.float32, device=device).expand(count, 2, 2)
        empty = Beams(
            torch.zeros(count, dtype=torch.int64, device=device),
            torch.zeros(count, SPOTS, 2, device=device),
            torch.zeros(count, SPOTS, dtype=torch.bool, device=device),
            torch.eye(2, device=device).expand(count, 2, 2),
            full(optics.energy_keV),
            full(optics.semiangle_mrad),
            full(optics.pixel_reciprocal),
            full(optics.disk_radius),
            full(optics.psf_px),
            bend,
        )
        return supposed(empty, self.materials.index(name), name)

    def check_optics(self, optics: Optics) -> None:
        """Raise ValueError where the network was not trained for such optics; the message says what it reads."""
        if not 75 <= optics.energy_keV <= 310:
            raise ValueError(f"energy_keV is {optics.energy_keV}; the network was trained for 80, 200 and 300 keV")
        for name in self.among:
            first = first_order(material(name))
            touching = 1e3 * first * optics.wavelength / 2
            if optics.semiangle_mrad > 0.86 * touching:
                raise ValueError(
                    f"semiangle_mrad = {optics.semiangle_mrad} lets the disks of {name} touch; the network reads "
                    f"separate disks: choose at most {0.86 * touching:.2f}, or name other materials"
                )
            away = first / optics.pixel_reciprocal
            if not 12 <= away <= optics.n_pixels / 4 + 1:
                raise ValueError(
                    f"pixel_mrad = {optics.pixel_mrad} puts the nearest reflections of {name} {away:.1f} pixels from "
                    f"the beam; the network was trained for 12 to {optics.n_pixels / 4:.0f}: choose pixel_mrad from "
                    f"{4e3 * first * optics.wavelength / optics.n_pixels:.3f} to "
                    f"{1e3 * first * optics.wavelength / 12:.3f}"
                )
        if optics.disk_radius < 1.5:
            raise ValueError(
                f"semiangle_mrad = {optics.semiangle_mrad} gives disks of radius {optics.disk_radius:.2f} pixels; the "
                f"network reads disks of 1.5 pixels or more: choose at least {1.5 * optics.pixel_mrad:.2f}"
            )

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
        frames = np.asarray(frames)
        if not (np.issubdtype(frames.dtype, np.integer) or np.issubdtype(frames.dtype, np.floating)):
            raise TypeError(f"frames are {frames.dtype}; the network reads electrons counted: integers or floats")
        n = optics.n_pixels
        if frames.ndim != 3 or frames.shape[1:] != (n, n):
            raise ValueError(f"frames have shape {frames.shape}; these optics (n_pixels = {n}) need (any, {n}, {n})")
        self.check_optics(optics)
        parts = [self._predicted(frames[i : i + BATCH], optics) for i in range(0, max(len(frames), 1), BATCH)]
        columns = {
            name: np.concatenate([getattr(p, name) for p in parts])
            for name in FeatureDescriptors.__dataclass_fields__
            if name != "phases"
        }
        return FeatureDescriptors(phases=self.among, **columns)

    def _predicted(self, frames: np.ndarray, optics: Optics) -> FeatureDescriptors:
        b = len(frames)
        numbers = np.asarray(frames, np.float32)
        broken = ~np.isfinite(numbers).all((1, 2)) | (numbers < 0).any((1, 2))
        numbers = np.where(broken[:, None, None], 0, numbers)
        dose = numbers.sum((1, 2), dtype=float)
        chosen = self.most_evident(torch.from_numpy(numbers).to(self.calibration.device), optics)

        flagged = np.full(b, "", dtype=object)
        saturated = np.zeros(b, bool)
        if np.issubdtype(frames.dtype, np.integer):
            saturated = (frames == np.iinfo(frames.dtype).max).any((1, 2))

        def flag(where: np.ndarray, reason: str) -> None:
            flagged[where & (flagged == "")] = reason

        flag(broken, "not counts: a pixel is negative or not a number")
        flag(dose == 0, "no electrons: the frame is empty")
        flag(saturated, "saturated: a pixel reached the largest value of its type")
        flag(dose < 100, "too few electrons to find a lattice in")
        flag(
            chosen["genuine"] < 0,
            f"not found to be a crystal of {' or '.join(self.among)}: no lattice of theirs explains the disks",
        )
        flag(
            np.abs(chosen["strain"]).max(1, initial=0.0) > LARGEST_STRAIN,
            f"strained by more than {100 * LARGEST_STRAIN:g} %: not a crystal of {' or '.join(self.among)}, or the "
            "calibration is wrong",
        )
        known = flagged == ""
        prior = np.diag([PRIOR_SD[0] ** 2] * 3)
        folds = np.array([symmetry(material(name)) for name in self.among])[chosen["material"]]
        free = np.pi / folds / np.sqrt(3)
        return FeatureDescriptors(
            strain=np.where(known[:, None], chosen["strain"], 0.0),
            covariance=np.where(known[:, None, None], chosen["covariance"], prior),
            rotation=np.where(known, chosen["rotation"], 0.0),
            rotation_sd=np.where(known, np.minimum(chosen["rotation_sd"], free), free),
            phases=self.among,
            phase_probability=np.where(known[:, None], chosen["probability"], 1 / len(self.among)),
            flagged=flagged.astype(str),
            thickness=np.where(known, chosen["thickness"], np.nan),
            thickness_sd=np.where(known, chosen["thickness_sd"], THICKNESS_SD),
            centre=np.where(known[:, None], chosen["centre"], 0.0),
            centre_sd=np.where(known[:, None], chosen["centre_sd"], PRIOR_SD[2]),
        )

    @torch.no_grad()
    def most_evident(self, counts: Tensor, optics: Optics) -> dict[str, np.ndarray]:
        """What patterns say of the material that they have most evidence of, before anything is flagged.

        Where that of another material would be strained beyond `LARGEST_STRAIN`, its evidence does not count.

        Parameters
        ----------
        counts : Tensor (b, n, n)
            Electrons, float32, all finite, on the network's device.
        optics : Optics
            Beam and detector.

        Returns
        -------
        dict of arrays
            ``material`` (b,), its place in `among`; ``probability`` (b, len(among)) of each; ``genuine`` (b,), log-odds
            of being that material rather than another crystal; ``strain`` (b, 3), ``covariance`` (b, 3, 3), and, with
            standard deviations ``..._sd``, ``rotation`` [rad], ``thickness`` [nm] and ``centre`` [pixels].
        """
        dose = counts.sum((1, 2), dtype=torch.float64).cpu().numpy()
        by_material = [self._supposing(counts, optics, name, dose) for name in self.among]
        evidence = np.stack([m["evidence"] for m in by_material], 1)
        # Of a material in which nothing believable was found, the network's evidence is a guess.
        beyond = np.stack([np.abs(m["strain"]).max(1) > LARGEST_STRAIN for m in by_material], 1)
        evidence[beyond & ~beyond.all(1, keepdims=True)] = -np.inf
        probability = np.exp(evidence - evidence.max(1, keepdims=True, initial=-np.inf))
        probability /= probability.sum(1, keepdims=True)
        best = probability.argmax(1)
        chosen = {k: np.stack([m[k] for m in by_material], 1)[np.arange(len(best)), best] for k in by_material[0]}
        return {"material": best, "probability": probability, **chosen}

    def _supposing(self, counts: Tensor, optics: Optics, name: str, dose: np.ndarray) -> dict[str, np.ndarray]:
        """What the patterns say if they are of one material."""
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
        return {
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
