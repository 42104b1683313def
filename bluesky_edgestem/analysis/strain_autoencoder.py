"""The strain autoencoder: from a scan's own patterns to the affine map of each, without labels or tuning.

The encoder finds what a pattern is: affine map, beam, background, codes (`lattice_search`, `affine_encoder`). The
decoder makes a pattern of that again (`base_pattern`). It learns from the scan what all its patterns have in common
(`lattice_discovery`, `base_pattern_learning`), and by the cycle from readings to patterns to readings how far its
uncertainties can be trusted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import strain_weights
from .affine_encoder import encode
from .affine_readings import AffineReadings
from .base_pattern import MARGIN, Background, BasePattern, reindexing, rotation_of, search
from .counts import NO_COUNTS, as_counts, check_numbers
from .disk_aperture import Aperture
from .disk_scoring import KnownInformation, known_information
from .doubts import Doubt, certain, flags, suspicion
from .kernels import in_parts
from .lattice_evidence import lattice_evidence
from .one_thread import one_thread

if TYPE_CHECKING:
    from .base_pattern_learning import Learned

#: Frames that are learned from, in blocks of neighbours. What few of them do not tell of the fills is a bias of all.
_FRAMES, _BLOCK = 4096, 16
#: Least number of frames with electrons to learn from.
_LEAST = 32
#: Disks that are farther than this from the lattice, squared, over what is usual, are on none that was found, if they
#: leave the map as uncertain as this: with many electrons, what they are drawn with tells, too.
_NO_LATTICE, _UNSURE = 10.0, 0.002
#: Counting noise makes errors squared so many times what they should be where the cycle does not close.
_RETURNS = 9.0
#: Steps of rotation [rad] for which the mean pattern's information is known.
_TURN = 0.01
#: Standard deviation of the map's entries where nothing is known.
_UNKNOWN = 1.0


def _checked(frames: Any) -> None:
    check_numbers(frames.dtype)
    if len(frames.shape) != 3 or min(frames.shape[1:]) < 32:
        raise ValueError(f"frames have shape {tuple(frames.shape)}; needed is (n, ny, nx), ny and nx 32 or more")


def _drawn(frames: Any, rng: np.random.Generator) -> np.ndarray:
    """Frames to learn from: all, or blocks of neighbours spread over the scan."""
    n = len(frames)
    if n <= _FRAMES:
        return np.asarray(frames[:])
    blocks = _FRAMES // _BLOCK
    room = n / blocks - _BLOCK
    starts = [int(i * n / blocks + rng.uniform(0, max(room, 0))) for i in range(blocks)]
    return np.concatenate([np.asarray(frames[s : s + _BLOCK]) for s in starts])


class StrainAutoencoder:
    """A cycle-consistent spatial-transforming autoencoder of diffraction patterns.

    Made by `train` or `load`.
    """

    def __init__(self) -> None:
        self.base: BasePattern | None = None  #: the decoder
        self.converged: bool = False
        self.why: str = "not trained"  #: why it has not converged; empty when it has
        self.report: dict[str, Any] = {}  #: what was learned, in figures
        self._information: dict[int, tuple] = {}
        self.stretch: float = 1.0  #: of the covariance that counting noise alone would make
        self.floor: np.ndarray = np.zeros((4, 4))  #: covariance of the map that no dose takes away
        self.scatter: float = 1.0  #: that of single disks about the lattice, squared, in patterns that the base makes

    @property
    def base_vectors(self) -> np.ndarray:
        """Vectors of the base pattern's lattice, as rows (2, 2) [pixels]; zeros where none was found."""
        return np.zeros((2, 2)) if self.base is None else self.base.vectors

    @property
    def disk_radius(self) -> float:
        """Radius of the disks [pixels]; 0 where none were found."""
        return 0.0 if self.base is None else self.base.aperture.radius

    @classmethod
    def train(cls, frames: Any, *, seed: int = 0, progress: Callable[[str], None] | None = None) -> StrainAutoencoder:
        """Learn the base pattern of a scan.

        Parameters
        ----------
        frames : (n, ny, nx), integers or floating point
            Electrons counted, in the order of the scan; an array, or what can be sliced like one (an HDF5 dataset).
            Pixels that hold the largest value of their type in every frame are masked: they count for nothing.
        seed : int
            Settles which frames are drawn: the same seed gives the same weights on the same machine, bit for bit once
            numba has compiled; the very first training there may differ from later ones in the tenth digit.
        progress : callable, optional
            Is told in a line of text how far training is.

        Returns
        -------
        StrainAutoencoder
            `converged` says whether it can be used, `why` why not.

        Raises
        ------
        TypeError
            If frames are not numbers.
        ValueError
            If frames have no three dimensions or fewer than 32 pixels along a side.
        """
        _checked(frames)
        # Here, so that what reads with weights needs nothing of what makes them.
        from .base_pattern_learning import first_reading, learn
        from .lattice_discovery import find_lattice
        from .pixel_defects import gaps, good_pixels

        tell = progress or (lambda line: None)
        network = cls()
        rng = np.random.default_rng(seed)
        drawn, broken = as_counts(_drawn(frames, rng))
        full = drawn == np.iinfo(drawn.dtype).max
        masked = full[~broken].all(0)
        usable = ~broken & ~(full & ~masked).any((1, 2))
        drawn = np.where(masked, 0, drawn[usable]) if masked.any() else drawn[usable]
        drawn = drawn[drawn.sum((1, 2), dtype=float) > 0]
        if len(drawn) < _LEAST:
            network.why = f"{len(drawn)} frames hold electrons counted, and no saturated pixel; {_LEAST} are needed"
            return network
        good = good_pixels(drawn) & ~masked & ~gaps(drawn)
        lattice = find_lattice(drawn * good)
        if lattice is None:
            network.why = (
                "no lattice of separate disks was found in half of the frames that show disks: they may overlap, hold "
                "too few electrons, or not be of a crystal"
            )
            return network
        tell(f"lattice of {np.linalg.norm(lattice.vectors, axis=1).round(1).tolist()} pixels")
        with one_thread():
            base, at = first_reading(drawn, lattice, good.astype(np.float32))
            shows = lattice_evidence(base, drawn, at.transform, at.centre) > 1
            if shows.sum() < _LEAST:
                network.why = (
                    f"{shows.sum()} of {len(shows)} frames show a lattice; {_LEAST} are needed: the others hold "
                    "too few electrons, are of vacuum or of a support, or have disks that overlap"
                )
                return network
            if not shows.all():
                tell(f"{(~shows).sum()} of {len(shows)} frames show no lattice, and are not learned from")
                drawn, at = drawn[shows], at.part(shows)
            network.report["without_lattice"] = int((~shows).sum())
            learned = learn(drawn, base, at, tell)
            network._take(learned)
            network._calibrate(learned, rng)
        tell(f"counting noise makes {np.sqrt(network.stretch):.2f} times the error that it should")
        return network

    def _take(self, learned: Learned) -> None:
        base = self.base = learned.base
        misfit = float(np.median(learned.misfit))
        self.report |= {
            "frames": len(learned.misfit),
            "dose": float(np.median(learned.estimates.dose)),
            "disk_radius_px": base.aperture.radius,
            "point_spread_px": base.aperture.spread,
            "base_vectors_px": base.vectors.tolist(),
            "reflections": len(base.index),
            "modes": len(base.fills) - 1,
            "background_share": base.background.share,
            "bad_pixels": int((base.good == 0).sum()),
            "misfit": misfit,
            "misfit_spread": float(np.median(np.abs(learned.misfit - misfit)) / 0.6745),
            "restless": learned.restless,
        }
        reasons = []
        if misfit > 2:
            reasons.append(f"the base pattern leaves {misfit:.1f} times the counting noise unexplained")
        if learned.restless > 1:
            reasons.append(f"disks still move by {learned.restless:.1f} of their standard deviations each round")
        self.why = "; ".join(reasons)
        self.converged = not reasons

    def _calibrate(self, learned: Learned, rng: np.random.Generator) -> None:
        """Close the cycle: patterns made of readings, with noise, are read again; the readings must return."""
        at, part = learned.estimates, np.unique(np.linspace(0, len(learned.misfit) - 1, 192).astype(int))
        drawn = learned.base.draw(at.transform[part], at.centre[part], learned.codes[part], at.background[part])
        excess, usual = [], []
        for fewer in (1, 10):
            frames = np.minimum(rng.poisson(np.maximum(drawn, 0) / fewer), 65534).astype(np.uint16)
            transform, _, covariance, _, scatter, *_ = self._encoded(learned.base, frames)
            usual.append(np.nanmedian(scatter))
            # Learning may have other indices than reading: of a square lattice, turned by 90°.
            turn = reindexing(learned.base.vectors, transform, at.transform[part])
            error = transform @ turn - at.transform[part]
            own = covariance[:, :4, :4].reshape(-1, 2, 2, 2, 2)
            z2 = error**2 / np.einsum("nkj,nlj,nikil->nij", turn, turn, own)
            excess.append(np.nanmedian(z2) / 0.4549)  # the median of a squared standard normal
        self.stretch = float(max(1.0, np.mean(excess)))
        if not self.stretch < _RETURNS:
            told = f"patterns made of its readings are read {np.sqrt(self.stretch):.1f} standard deviations off"
            self.converged, self.why = False, "; ".join(filter(None, (self.why, told)))
        self.scatter = float(max(usual))
        self.floor = learned.fill_error
        self.report |= {"stretch": self.stretch, "floor": np.sqrt(np.diag(self.floor)).tolist()}

    def read(self, frames: np.ndarray) -> AffineReadings:
        """Find the affine map of each of the frames.

        Parameters
        ----------
        frames : array (n, ny, nx), integers or floating point
            Electrons counted.

        Returns
        -------
        AffineReadings
            Where `flagged` gives a reason, the map is the identity, and its covariance says that nothing is known.

        Raises
        ------
        TypeError
            If frames are not numbers.
        ValueError
            If frames are of another size than those learned from, or nothing was learned.
        """
        base, frames, broken = self._ready(frames)
        if not len(frames):
            empty = np.zeros((0, 2))
            return AffineReadings(
                np.zeros((0, 2, 2)), np.zeros((0, 4, 4)), empty, empty, np.zeros(0), np.zeros(0, dtype=str)
            )
        transform, centre, covariance, dose, doubts = self._judged(base, frames, broken)
        flagged = flags(doubts)
        known = flagged == ""
        transform = np.where(known[:, None, None], transform, np.eye(2))
        cov = np.where(known[:, None, None], covariance[:, :4, :4] + self.floor, _UNKNOWN**2 * np.eye(4))
        centre = np.where(known[:, None], centre, base.beam)
        with np.errstate(invalid="ignore"):
            sd = np.sqrt(np.einsum("nii->ni", covariance[:, 4:, 4:]))
        sd = np.where(known[:, None], sd, max(base.shape))
        return AffineReadings(transform, cov, centre, sd, dose, flagged)

    def suspicion(self, frames: np.ndarray) -> np.ndarray:
        """How unlike the patterns of the scan frames (n, ny, nx) are, (n,): more than one is flagged.

        Parameters and errors are those of `read`.
        """
        base, frames, broken = self._ready(frames)
        return suspicion(self._judged(base, frames, broken)[-1]) if len(frames) else np.zeros(0)

    def _ready(self, frames: np.ndarray) -> tuple[BasePattern, np.ndarray, np.ndarray]:
        """The base pattern, frames as counts, and which of them hold none (n,)."""
        if self.base is None:
            raise ValueError(f"the strain autoencoder has no base pattern: {self.why}")
        frames = np.asarray(frames)
        _checked(frames)
        if frames.shape[1:] != self.base.shape:
            raise ValueError(f"frames are {frames.shape[1:]} pixels; the autoencoder was trained on {self.base.shape}")
        return self.base, *as_counts(frames)

    def _judged(
        self, base: BasePattern, frames: np.ndarray, broken: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[Doubt]]:
        """Maps (n, 2, 2), beams (n, 2), covariance (n, 6, 6), dose (n,), and what speaks against them."""
        with one_thread():
            transform, centre, covariance, misfit, scatter, dose, brightest = self._encoded(base, frames)
        full = np.iinfo(frames.dtype).max
        saturated = brightest == full
        if saturated.any():  # pixels that do not count may hold that, too: detectors mask with it
            saturated[saturated] = (frames[saturated][:, base.good > 0] == full).any(1)
        # Disks that agree on no lattice have other fills than were learned: then the map is as wrong as they differ.
        disagreement = np.maximum(scatter / self.scatter, 1.0)
        covariance = covariance * (self.stretch * disagreement)[:, None, None]
        finite = np.isfinite(transform).all((1, 2)) & np.isfinite(centre).all(1)
        # Frames are not indexed, which would copy them all.
        somewhere = np.where(finite[:, None, None], transform, np.eye(2)), np.where(finite[:, None], centre, base.beam)
        shown = np.where(finite, lattice_evidence(base, frames, *somewhere), 0.0)
        doubts = self._doubts(base, dose, saturated, transform, centre, covariance, misfit, disagreement, shown)
        return transform, centre, covariance, dose, [certain(broken, lambda i: NO_COUNTS), *doubts]

    def _known(self, base: BasePattern, transform: np.ndarray) -> tuple[KnownInformation, np.ndarray]:
        """What the encoder needs for maps (n, 2, 2), and which rotation each has, (n,); kept for the next frames."""
        steps, which = np.unique(np.rint(rotation_of(transform) / _TURN).astype(int), return_inverse=True)
        new = np.array([s for s in steps if s not in self._information])
        if len(new):
            c, s = np.cos(new * _TURN), np.sin(new * _TURN)
            turned = np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)
            known = known_information(base, turned)
            for i, step in enumerate(new):
                self._information[step] = tuple(getattr(known, f.name)[i] for f in fields(known))
        columns = zip(*(self._information[step] for step in steps), strict=True)
        return KnownInformation(*(np.stack(column) for column in columns)), which

    def _encoded(self, base: BasePattern, frames: np.ndarray) -> tuple[np.ndarray, ...]:
        """Maps (n, 2, 2), beams (n, 2), covariance (n, 6, 6), misfit, scatter, dose and brightest pixel (n,).

        All processors are at work.
        """
        n = len(frames)
        transform, centre = np.empty((n, 2, 2)), np.empty((n, 2))

        def search_part(p: slice) -> None:
            transform[p], centre[p] = search(base, frames[p])

        in_parts(n, search_part)
        known, which = self._known(base, transform)
        codes, covariance = np.zeros((n, len(base.fills))), np.zeros((n, 6, 6))
        background, misfit, scatter, dose = (np.zeros(n) for _ in range(4))
        brightest = np.zeros(n, frames.dtype)

        def encode_part(p: slice) -> None:
            encode(
                frames[p], base.good, base.background_table, MARGIN, base.beam, base.aperture.templates,
                base.aperture.rows, base.aperture.radius, base.reflections, known.angle, known.fills, known.slopes,
                known.disks, known.place, known.level, known.background, known.order, known.leading, known.telling,
                which[p], base.background.share, base.background.spread, transform[p], centre[p], codes[p],
                background[p], covariance[p], misfit[p], scatter[p], dose[p], brightest[p],
            )  # fmt: skip

        in_parts(n, encode_part)
        return transform, centre, covariance, misfit, scatter, dose, brightest

    def _doubts(self, base, dose, saturated, transform, centre, covariance, misfit, disagreement, shown) -> list[Doubt]:
        with np.errstate(invalid="ignore"):
            sd = np.sqrt(np.einsum("nii->ni", covariance[:, :4, :4])).max(1)
        finite = np.isfinite(transform).all((1, 2)) & np.isfinite(centre).all(1) & np.isfinite(sd)
        away = np.abs(centre - base.beam).max(1)
        stretch = np.linalg.svd(np.where(finite[:, None, None], transform, np.eye(2)), compute_uv=False)
        usual, learned = self.report["misfit"], self.report["dose"]
        allowed = 1.3 + max(usual - 1, 0.05) * 3 * np.maximum(dose / learned, 1)
        return [
            certain(dose == 0, lambda i: "no electrons: the frame is empty"),
            certain(saturated, lambda i: "saturated: a pixel reached the largest value of its type"),
            certain(~finite, lambda i: "no lattice like the base pattern's"),
            Doubt(away / MARGIN, lambda i: f"the beam is {away[i]:.0f} pixels from where it mostly is"),
            Doubt(
                1 / np.maximum(shown, 1e-3),
                lambda i: (
                    "no lattice like the base pattern's: its disks would hold no more than what is around them, as in "
                    "vacuum, on a support, or with too few electrons"
                ),
            ),
            Doubt(
                np.abs(stretch - 1).max(1) / 0.12,
                lambda i: (
                    f"no lattice like the base pattern's: it would be {stretch[i, 0]:.2f} and {stretch[i, 1]:.2f} wide"
                ),
            ),
            Doubt(
                misfit / allowed,
                lambda i: f"not a pattern of this scan: {misfit[i]:.1f} times its noise is unexplained",
            ),
            Doubt(
                np.minimum(disagreement / _NO_LATTICE, sd / _UNSURE),
                lambda i: (
                    f"disks on no lattice: they are {np.sqrt(disagreement[i]):.1f} times as far from one as usual"
                ),
            ),
            Doubt(sd / 0.05, lambda i: f"too few electrons to find the lattice: {dose[i]:.0f} in the frame"),
        ]

    @property
    def caution(self) -> str:
        """What to say of its strain; empty where it has converged."""
        if self.converged:
            return ""
        return f"the network has not converged, its strain is not to be trusted: {self.why}"

    def save(self, path: Path) -> None:
        """Write what was learned, under a checksum."""
        facts: dict[str, Any] = {"converged": self.converged, "why": self.why, "report": self.report}
        facts |= {"stretch": self.stretch, "floor": self.floor.tolist(), "scatter": self.scatter}
        arrays: dict[str, np.ndarray] = {}
        if (base := self.base) is not None:
            background = {"share": base.background.share, "spread": base.background.spread}
            facts |= {"aperture": asdict(base.aperture), "background": background}
            names = ("vectors", "index", "beam", "fills", "good")
            arrays = {name: getattr(base, name) for name in names} | {"profile": base.background.profile}
        strain_weights.write(path, facts, arrays)

    @classmethod
    def load(cls, path: Path) -> StrainAutoencoder:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file is missing, cut short, altered or of another version; the message names it.
        """
        facts, arrays = strain_weights.read(path)
        network = cls()
        network.converged, network.why, network.report = facts["converged"], facts["why"], facts["report"]
        network.stretch, network.floor = facts["stretch"], np.array(facts["floor"])
        network.scatter = facts["scatter"]
        if arrays:
            ny, nx = arrays["good"].shape
            aperture = Aperture(**facts["aperture"])
            background = Background(arrays.pop("profile"), **facts["background"])
            network.base = BasePattern((ny, nx), aperture=aperture, background=background, **arrays)
        return network
