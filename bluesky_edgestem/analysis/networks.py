"""The descriptor network: diffraction patterns to strain, rotation and phase, each with its uncertainty.

A likelihood network: its first layers are matched filters whose shapes follow from a learned scattering model
(`scattering`), its middle climbs to and samples the posterior of the lattice (`lattice_inference`), and its head is a
small multilayer perceptron that corrects the uncertainties for what the model leaves out. All of it is differentiable
torch, and trained (`training`).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from . import crystals, weights_file
from .counts import as_counts
from .descriptor import FeatureDescriptors
from .disk_likelihood import around, disk_maps, windows
from .doubts import Doubt, flags, suspicion
from .lattice_inference import (
    Posterior,
    Setting,
    climb,
    find_centre,
    fisher,
    positions,
    prepare,
    sample,
    search,
)
from .optics import Optics
from .pixel_defects import gaps, share_in
from .readings import PRIOR_SD, Reading, check_optics, checked, described, doubts
from .scattering import Beam, ScatteringModel, squared_distance
from .weights_file import WeightsFile

SHIPPED = weights_file.SHIPPED / "descriptor.pt"
WEIGHTS = WeightsFile(b"EDGESTEM-DESCRIPTOR", 2, "descriptor network")
#: Electrons between the disks that the optics' own word on the background counts for.
FIRST_GUESS = 25.0
#: Frames that go through the network together.
BATCH = 32
#: Standard deviation of the beam's centre over what counting allows, and what is left of it with any number of
#: electrons, times the root of a disk's radius [pixels^1.5]: profiles are sampled at pixels. Measured on 720 multislice
#: patterns.
_OF_COUNTING, _OF_PIXELS = 1.08, 0.025


def _features(beam: Beam, dose: Tensor, posterior: Posterior, background: Tensor) -> Tensor:
    """What the head knows of each pattern, (b, 10), each of order one."""
    variance = posterior.covariance.diagonal(dim1=1, dim2=2)
    optics = (
        np.log(beam.radius) - 1.5,
        4 * float(torch.log(beam.vectors[0].norm() / 28)),
        np.log10(beam.optics.background + 1e-3) + 1.5,
        5 * (beam.optics.psf_px - 0.6),
    )
    return torch.stack(
        [
            (torch.log(dose.clamp(min=1.0)) - 11.0) / 2,
            *(torch.full_like(dose, value) for value in optics),
            (torch.log(variance[:, :3].mean(1)) + 10) / 2,
            (torch.log(variance[:, 3]) + 10) / 2,
            torch.log(posterior.effective / 200),
            (torch.log(posterior.log_likelihood.clamp(min=1.0)) - 4) / 2,
            torch.log(background.clamp(0.1, 10.0)),
        ],
        -1,
    )


def pooled(values: Tensor, variances: Tensor) -> Tensor:
    """Best guesses of quantities that differ little from pattern to pattern, from a noisy measurement of each.

    Each is drawn towards the common mean as far as its noise exceeds the patterns' true spread, which the measurements
    themselves tell (empirical Bayes; spread after DerSimonian and Laird, Control. Clin. Trials 7 (1986) 177): where
    they agree within their noise all get the mean, where they differ by much more each keeps its own.

    Parameters
    ----------
    values : Tensor (b,)
    variances : Tensor (b,)
        Of the measurement noise.

    Returns
    -------
    Tensor (b,)
    """
    weight = 1 / variances
    mean = (weight * values).sum() / weight.sum()
    excess = (weight * (values - mean) ** 2).sum() - (len(values) - 1)
    spread2 = (excess / (weight.sum() - (weight**2).sum() / weight.sum()).clamp(min=1e-12)).clamp(min=0)
    weight = 1 / (variances + spread2)
    mean = (weight * values).sum() / weight.sum()
    return mean + (values - mean) * spread2 / (spread2 + variances)


#: Share of the electrons that a gap may hide: dose, and with it the phase, is no better known than that.
_HIDDEN = 0.1
_BEHIND_A_GAP = "a gap between the detector's modules hides much of the direct beam"


class DescriptorNetwork(nn.Module):
    """Strain, rotation and phase of monolayers from diffraction patterns of separate disks."""

    def __init__(self) -> None:
        super().__init__()
        self.scattering = ScatteringModel()
        last = nn.Linear(24, 4)
        nn.init.zeros_(last.weight)
        last.bias = nn.Parameter(torch.tensor([0.0, 0.0, -8.0, 0.0]))
        self.head = nn.Sequential(nn.Linear(10, 24), nn.SiLU(), last)
        #: Logarithm of the nats by which phases differ at most: with many electrons, the model's own errors decide.
        self.log_phase_cap = nn.Parameter(torch.tensor(3.0))
        self.card: dict = {}
        self._settings: dict[Beam, Setting] = {}

    def setting(self, optics: Optics) -> Setting:
        """What depends on the optics alone, kept for the next call."""
        beam = Beam(optics, self.device)
        if beam not in self._settings:
            if len(self._settings) >= 8:
                self._settings.pop(next(iter(self._settings)))
            with torch.no_grad():
                self._settings[beam] = prepare(self.scattering, beam)
        return self._settings[beam]

    @property
    def device(self) -> torch.device:
        """What computes: where the weights are."""
        return self.log_phase_cap.device

    def train(self, mode: bool = True) -> DescriptorNetwork:
        self._settings.clear()
        return super().train(mode)

    def forward(self, counts: Tensor, setting: Setting, good: Tensor | None = None, hidden: float = 0.0) -> Reading:
        """Read counts (b, n, n), float32, on the network's device, as all that is given.

        `good` (n, n) is 0 for pixels that do not count, which have hidden a share of the electrons.
        """
        beam = setting.beam
        n = beam.optics.n_pixels
        good = counts.new_ones(n, n) if good is None else good
        dose = counts.sum((1, 2)) / (1 - hidden)
        with torch.no_grad():
            centre = find_centre(setting, counts, dose, good)
            from_beam2 = squared_distance(n, centre)
            seen = beam.seen(centre) * good
            start, _ = search(setting, counts, dose, seen, centre)
            places = centre[:, None] + positions(start, setting.vectors)
        expected = beam.background(from_beam2) + self.scattering.floor(beam)
        between = self._between(beam, counts, seen, expected, places)
        # The background that the optics state is a first guess; the patterns know better.
        foreseen = between[1] * dose + FIRST_GUESS
        scale = pooled((between[0] + FIRST_GUESS) / foreseen, (between[0] + FIRST_GUESS) / foreseen**2)
        expected = expected * scale[:, None, None]
        maps = disk_maps(setting.filters, setting.order, counts, dose, seen, expected, places)
        with torch.no_grad():
            mode = climb(setting, maps, start, centre, dose)
            information, _ = fisher(setting, mode, dose)
            beforehand = torch.diag(counts.new_tensor([PRIOR_SD[0] ** -2] * 3 + [0.1**-2]))
        posterior = sample(setting, maps, centre, mode, torch.linalg.inv(information + beforehand))
        phase_logits, brightness, brightness_sd = self._compare(
            setting, counts, dose, seen, expected, centre, posterior.mean
        )
        out = self.head(_features(beam, dose, posterior, scale).detach())
        stretch = torch.exp(0.5 * torch.stack([out[:, 0]] * 3 + [out[:, 1]], -1))
        # What the model leaves out does not shrink with the dose; it grows with a disk's radius.
        floor = torch.exp(out[:, 2]) * beam.radius / beam.vectors[0].norm()
        covariance = posterior.covariance * stretch[:, :, None] * stretch[:, None, :] + torch.diag_embed(
            (floor**2)[:, None] * floor.new_tensor([1.0, 1.0, 0.5, 0.5])
        )
        return Reading(
            posterior.mean,
            covariance,
            centre - (n - 1) / 2,
            torch.sqrt(
                _OF_COUNTING**2 / (dose * setting.direct.information).clamp(min=1e-9) + _OF_PIXELS**2 / beam.radius
            ),
            phase_logits * torch.exp(out[:, 3:4]),
            posterior.log_likelihood,
            brightness,
            brightness_sd,
            between[0] / dose.clamp(min=1),
            between[1],
        )

    @staticmethod
    def _between(beam: Beam, counts: Tensor, seen: Tensor, expected: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Electrons counted between the disks (b,), and the share of all expected there (b,)."""
        half = int(beam.radius + 3)
        corner, distance = around(places, half)
        disk = (distance < beam.radius + 2).float()
        within = [(windows(image * seen, corner, 2 * half + 1) * disk).sum((1, 2)) for image in (counts, expected)]
        return (counts * seen).sum((1, 2)) - within[0], (expected * seen).sum((1, 2)) - within[1]

    def _compare(self, setting, counts, dose, seen, expected, centre, unknowns) -> tuple[Tensor, Tensor, Tensor]:
        """Log-likelihoods (b, phases) of the disks' brightness; electrons in the disks over expected, and its sd."""
        beam = setting.beam
        relative = positions(unknowns, setting.vectors)
        half = int(beam.radius + 4)
        corner, distance = around(centre[:, None] + relative, half)
        seen, counts, expected = (windows(image, corner, 2 * half + 1) for image in (seen, counts, expected))
        profile = self.scattering.profile(beam, distance) * seen
        brightness = torch.exp(self.scattering.log_strained(beam, relative)) * dose[:, None, None]
        empty = expected * seen * dose[:, None, None] + 1e-6
        disks = brightness[..., None] * profile[:, None]
        likelihood = (counts[:, None] * torch.log1p(disks / empty[:, None]) - disks).sum((2, 3))
        likelihood = likelihood - likelihood.mean(1, keepdim=True)
        cap = torch.exp(self.log_phase_cap)
        # How bright the disks are as a whole, by the same matched filters.
        likeliest = disks[torch.arange(len(dose), device=dose.device), likelihood.argmax(1)]
        weight = likeliest / (likeliest + empty)
        foreseen = (likeliest * weight).sum((1, 2)).clamp(min=1e-6)
        return (
            likelihood / torch.sqrt(1 + (likelihood / cap) ** 2),
            ((counts - empty) * weight).sum((1, 2)) / foreseen,
            (counts * weight**2).sum((1, 2)).clamp(min=1).sqrt() / foreseen,
        )

    def check_optics(self, optics: Optics) -> None:
        """Raise ValueError where the network was not trained for such optics; the message says what it reads."""
        check_optics(optics)

    @torch.no_grad()
    def predict(self, frames: np.ndarray, optics: Optics) -> FeatureDescriptors:
        """Read recorded frames.

        Frames of one call are of one scan: how strong the diffuse background is they say together (`pooled`), which at
        high beam energies is most of what one pattern leaves open about its phase.

        Parameters
        ----------
        frames : array (n, n_pixels, n_pixels), unsigned integers
            Electrons counted; rows along y.
        optics : Optics
            Beam and detector that recorded them.

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
        frames = checked(frames, optics)
        if not len(frames):
            empty = np.zeros((0, 3))
            return FeatureDescriptors(
                empty, np.zeros((0, 3, 3)), np.zeros(0), np.zeros(0), tuple(crystals.MONOLAYERS),
                np.zeros((0, len(crystals.MONOLAYERS))), np.zeros(0, str), centre=empty[:, :2], centre_sd=empty[:, :2],
            )  # fmt: skip
        return FeatureDescriptors.joined(
            [described(reading, flags(against)) for reading, against in self._read(frames, optics)]
        )

    @torch.no_grad()
    def suspicion(self, frames: np.ndarray, optics: Optics) -> np.ndarray:
        """How unlike the known phases frames (n, n_pixels, n_pixels) are, (n,): more than one is flagged.

        Parameters and errors are those of `predict`.
        """
        frames = checked(frames, optics)
        if not len(frames):
            return np.zeros(0)
        return np.concatenate([suspicion(against) for _, against in self._read(frames, optics)])

    def _read(self, frames: np.ndarray, optics: Optics) -> Iterator[tuple[Reading, list[Doubt]]]:
        """Readings of frames, in parts, and what speaks against them."""
        setting = self.setting(optics)
        frames, broken = as_counts(frames)
        full = np.iinfo(frames.dtype).max
        gap = gaps(frames)
        good = torch.from_numpy((~gap).astype(np.float32)).to(self.device)
        hidden = share_in(gap, frames) if gap.any() else 0.0
        batches = -(-len(frames) // BATCH)
        for some, bad in zip(np.array_split(frames, batches), np.array_split(broken, batches), strict=True):
            counts = torch.from_numpy(some.astype(np.float32)).to(self.device)
            reading = self(counts, setting, good, hidden).on_host()
            against = doubts(reading, counts, (some == full).any(axis=(1, 2)), bad)
            yield reading, [Doubt(np.full(len(some), hidden / _HIDDEN), lambda i: _BEHIND_A_GAP), *against]

    def save(self, path: Path, card: dict) -> None:
        """Write the weights with the facts of their training, under a checksum."""
        payload = io.BytesIO()
        torch.save({"weights": self.state_dict(), "card": card}, payload)
        WEIGHTS.write(path, payload.getvalue())

    @classmethod
    def pretrained(cls, path: Path | None = None, device: str | None = None) -> DescriptorNetwork:
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
        network = cls()
        try:
            kept = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            network.load_state_dict(kept["weights"])
        except Exception as error:
            raise WEIGHTS.refusal(path, f"of another network ({str(error).splitlines()[0]})") from None
        network.card = kept["card"]
        return network.eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
