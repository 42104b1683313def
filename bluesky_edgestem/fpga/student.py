"""The student: the board's network in whole numbers. What every other form of it has to agree with, bit for bit.

Matched filters weigh the bins of a frame, and their sums are divided by one more, which measures the Bragg disks over
their background (`fpga.normaliser`): what then enters the network depends neither on the dose nor on the background.
``z = 2^gain u / (2^scale s)``, with a gain for each filter, so that all make use of their bits; downwards, with
`quotient_bits` bits behind the point and -1 <= z < 1; 0 where s is not positive. Dense layers follow: sums are exact,
and what leaves a hidden layer is rounded and saturates, as QKeras' `quantized_relu` has it. A bias has one bit more
than the sums, and that bit is always set: no sum lies halfway between two words, and nobody need know which way halves
go.

Outputs, each in words of `OUTPUT_BITS` bits: strain over `STRAIN_UNIT` (3), cos and sin of six times the rotation (2),
beam centre [bins] (2), log of the strain's standard deviation over `STRAIN_UNIT`, log odds of the second phase.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import floor, log
from pathlib import Path

import numpy as np

from ..analysis.descriptor import FeatureDescriptors
from ..analysis.optics import Optics
from ..analysis.weights_file import WeightsFile
from .frontend import Frontend
from .packed_arrays import pack, unpack

NAME = "student.weights"
#: Of the file in the folder of a build.
WEIGHTS = WeightsFile(b"EDGESTEM-STUDENT", 4, "student network", "build the board anew with `edgestem fpga build`")
STRAIN_UNIT = 0.02
FOLD = 6  #: the lattices that it reads look alike after a sixth of a turn
OUTPUTS = ("exx", "eyy", "exy", "cos6", "sin6", "centre_x", "centre_y", "log_sd", "phase")
OUTPUT_BITS, OUTPUT_FRACTION = 16, 8
#: What it depends on of the optics, and the relative difference to those that it was made for which it still reads.
OF_OPTICS = {"energy_keV": "keV", "semiangle_mrad": "mrad", "pixel_mrad": "mrad", "n_pixels": "pixels"}
OPTICS_TOLERANCE = 0.01
#: How a frame was that a result is of.
STATUS = ("", "the frame was too short", "the frame was too long", "no Bragg disks over the background")
#: Electrons per pattern that it is taught with, by `teaching.Domain`. What it makes of many more is wrong and not
#: flagged: no board takes more than a tenth over the most.
DOSE = (1e3, 1e6)
MOST_ELECTRONS = 1.1 * DOSE[1]
KNOWN_SHARE = 0.8  #: of the standard deviation known beforehand, above which a result tells nothing
UNKNOWN = "the pattern tells hardly more than was known before"


def other_optics(own: Mapping[str, float], optics: Optics) -> str:
    """In what optics are not those (of `OF_OPTICS`) that a board was built for, in words; empty where in nothing."""
    for name, unit in OF_OPTICS.items():
        asked = getattr(optics, name)
        if abs(asked - own[name]) > OPTICS_TOLERANCE * own[name]:
            return f"{name} is {asked:g} {unit}; the board was built for {own[name]:g} {unit}"
    return ""


@dataclass(frozen=True)
class Layer:
    """A dense layer in whole numbers: ``x @ weights + bias / 2``, in units of 2^-(fraction of x + `weight_fraction`).

    Raises
    ------
    ValueError
        If a bias is even.
    """

    weights: np.ndarray  #: (inputs, outputs) int32, in units of 2^-weight_fraction
    bias: np.ndarray  #: (outputs,) int64, odd, in units of half a sum's
    weight_fraction: int
    bits: int  #: of what leaves
    fraction: int  #: of them, behind the point
    signed: bool  #: of what leaves; without, negative values become 0

    def __post_init__(self) -> None:
        if not (self.bias & 1).all():
            raise ValueError(f"a bias is even, which leaves sums halfway between two words: {self.bias.tolist()}")

    def __call__(self, inputs: np.ndarray, fraction: int) -> np.ndarray:
        """What leaves (n, outputs) int64, of inputs (n, inputs) int64 in units of 2^-fraction."""
        sums = 2 * np.rint(inputs.astype(float) @ self.weights.astype(float)).astype(np.int64) + self.bias
        drop = self.dropped(fraction)
        low, high = self.range
        return np.clip((sums + (1 << drop)) >> (drop + 1), low, high)

    def dropped(self, fraction: int) -> int:
        """Bits of a sum, of inputs in units of 2^-fraction, that do not leave."""
        return fraction + self.weight_fraction - self.fraction

    @property
    def range(self) -> tuple[int, int]:
        """Least and largest word that leaves."""
        low = -(2 ** (self.bits - 1)) if self.signed else 0
        return low, low + 2**self.bits - 1


@dataclass(frozen=True)
class Student:
    """A network of whole numbers, and what it was made for."""

    frontend: Frontend
    optics: Optics  #: of the frames
    phases: tuple[str, str]
    filters: np.ndarray  #: (CORE², filters) int32
    normaliser: np.ndarray  #: (CORE²,) int32, weights of the sum that features are divided by
    scale: int
    gains: tuple[int, ...]  #: of each filter, from 0
    quotient_bits: int
    layers: tuple[Layer, ...]
    brightest: float = 7e-4  #: share of a pattern's electrons in the brightest bin outside of the incident beam
    sd_factors: tuple[float, float, float] = (1.0, 1.0, 1.0)  #: of strain; of rotation [rad] and centre [bins] over it
    card: dict = field(default_factory=dict)

    def features(self, bins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Filtered and divided, (n, filters) int64 in units of 2^-quotient_bits; normaliser (n,) int64, negative as 0.

        `bins` are (n, CORE²) from `Frontend`.
        """
        # Whole numbers below 2^24 (2^53) are exact in single (double) precision, in whatever order they are added.
        sums = (bins.astype(self._weighing.dtype) @ self._weighing).astype(np.int64)
        sums, normaliser = sums[:, :-1], np.maximum(sums[:, -1], 0)
        return divided(sums << np.array(self.gains), normaliser << self.scale, self.quotient_bits), normaliser

    @cached_property
    def _weighing(self) -> np.ndarray:
        """`columns`, of a type in which no sum is rounded."""
        return self.columns.astype(np.float32 if self.largest_sum < 2**24 else np.float64)

    @property
    def columns(self) -> np.ndarray:
        """The filters and, in the last column, the normaliser, (CORE², filters + 1) int32."""
        return np.column_stack([self.filters, self.normaliser])

    @property
    def filter_bits(self) -> int:
        """Bits of the filters' largest weight, with the sign."""
        return int(np.abs(self.columns).max()).bit_length() + 1

    @property
    def weight_bits(self) -> list[np.ndarray]:
        """Bits of each neuron's largest weight, with the sign, in its own unit, (neurons,) int of each dense layer."""
        common = (np.bitwise_or.reduce(layer.weights, axis=0) for layer in self.layers)
        largest = [
            np.abs(layer.weights).max(0) // np.maximum(each & -each, 1)
            for layer, each in zip(self.layers, common, strict=True)
        ]
        return [1 + np.ceil(np.log2(each + 1)).astype(int) for each in largest]

    @property
    def largest_sum(self) -> int:
        """No filter's sum, nor the normaliser, can be larger than this."""
        return int(np.abs(self.columns).sum(0).max()) * (2**self.frontend.bin_bits - 1)

    def outputs(
        self,
        frames: np.ndarray,
        shift: np.ndarray | int = 0,
        dense: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Output words (n, 9) int64 and status (n,) int, as the board gives them, of frames (n, n_pixels, n_pixels).

        `dense` is another form of the dense layers, if not `tail`.
        """
        features, normaliser = self.features(self.frontend(frames, shift))
        return (dense or self.tail)(features), np.where(normaliser == 0, 3, 0)

    @property
    def prior_sd(self) -> float:
        """Standard deviation of strain that is known before any pattern."""
        return self.card.get("strain_sd", STRAIN_UNIT)

    @property
    def most_log_sd(self) -> int:
        """Largest word of the log of the spread with which a result counts as known.

        As the network gives it: of patterns without a lattice it has learned to give that of `prior_sd`, whatever the
        factor by which the spreads of others are too small or too large.
        """
        word = floor(log(KNOWN_SHARE * self.prior_sd / STRAIN_UNIT) * 2**OUTPUT_FRACTION)
        return int(np.clip(word, -(2 ** (OUTPUT_BITS - 1)), 2 ** (OUTPUT_BITS - 1) - 1))

    def tail(self, features: np.ndarray) -> np.ndarray:
        """Output words (n, 9) int64 of features (n, filters) int64."""
        values, fraction = features, self.quotient_bits
        for layer in self.layers:
            values, fraction = layer(values, fraction), layer.fraction
        return values

    def described(self, words: np.ndarray, status: np.ndarray) -> FeatureDescriptors:
        """Descriptors from output words (n, 9) and status (n,), flagged where the board did not know."""
        out = np.asarray(words, float) / 2**OUTPUT_FRACTION
        of_strain, of_rotation, of_centre = self.sd_factors
        prior = self.prior_sd
        spread = np.minimum(STRAIN_UNIT * np.exp(out[:, 7]) * of_strain, prior)
        flagged = np.array(STATUS, dtype="<U60")[np.asarray(status)]
        unknown = (flagged == "") & (np.asarray(words)[:, OUTPUTS.index("log_sd")] > self.most_log_sd)
        flagged[unknown] = UNKNOWN
        known = flagged == ""
        spread = np.where(known, spread, prior)
        strain = np.where(known[:, None], out[:, :3] * STRAIN_UNIT, 0.0)
        covariance = covariance_of(spread)
        second = np.where(known, 1 / (1 + np.exp(-out[:, 8])), 0.5)
        centre = np.where(known[:, None], out[:, 5:7], 0.0) * self.frontend.bin
        anywhere = self.card.get("centre_sd", 0.5)
        centre_sd = np.where(known, np.minimum(spread * of_centre, anywhere), anywhere) * self.frontend.bin
        return FeatureDescriptors(
            strain, covariance,
            np.where(known, np.arctan2(out[:, 4], out[:, 3]) / FOLD, 0.0),
            np.where(known, np.minimum(spread * of_rotation, np.pi / FOLD / np.sqrt(3)), np.pi / FOLD / np.sqrt(3)),
            self.phases, np.stack([1 - second, second], 1), flagged.astype(str),
            centre=centre, centre_sd=np.repeat(centre_sd[:, None], 2, 1),
        )  # fmt: skip

    def predict(self, frames: np.ndarray, optics: Optics) -> FeatureDescriptors:
        """Descriptors of frames (n, n_pixels, n_pixels) of unsigned integers, as a network's `predict`.

        Bins are shifted as suits the frames' mean number of electrons.

        Raises
        ------
        TypeError
            If frames are not unsigned integers.
        ValueError
            If frames have another shape, or the optics are not those that it was made for.
        """
        self.check_optics(optics)
        frames = np.asarray(frames)
        electrons = float(frames.sum(dtype=float)) / max(len(frames), 1)
        return self.described(*self.outputs(frames, self.frontend.shift_for(electrons, self.brightest)))

    def check_optics(self, optics: Optics) -> None:
        """Raise ValueError where the optics are not those that it was made for."""
        if told := other_optics({name: getattr(self.optics, name) for name in OF_OPTICS}, optics):
            raise ValueError(f"{told}: build one for these optics with `edgestem fpga build`")

    @property
    def hash(self) -> str:
        """The first 16 digits of SHA-256 of all that is kept of it: what its results depend on, and its card."""
        return hashlib.sha256(self._payload()).hexdigest()[:16]

    def _payload(self) -> bytes:
        arrays = {"filters": self.filters, "normaliser": self.normaliser}
        layers = []
        for i, layer in enumerate(self.layers):
            arrays |= {f"weights{i}": layer.weights, f"bias{i}": layer.bias}
            layers.append({k: getattr(layer, k) for k in ("weight_fraction", "bits", "fraction", "signed")})
        facts = {
            "frontend": asdict(self.frontend), "optics": asdict(self.optics), "phases": self.phases,
            "scale": self.scale, "gains": self.gains, "quotient_bits": self.quotient_bits, "layers": layers,
            "brightest": self.brightest, "sd_factors": self.sd_factors, "card": self.card,
        }  # fmt: skip
        return pack(facts, arrays)

    def save(self, path: Path) -> None:
        """Write it under a checksum."""
        WEIGHTS.write(path, self._payload())

    @classmethod
    def load(cls, path: Path) -> Student:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file is missing, cut short, altered, or of another format or network; the message names it.
        """
        facts, arrays = unpack(WEIGHTS.read(Path(path)))
        layers = tuple(
            Layer(arrays[f"weights{i}"], arrays[f"bias{i}"], **layer) for i, layer in enumerate(facts["layers"])
        )
        return cls(
            Frontend(**facts["frontend"]), Optics(**facts["optics"]), tuple(facts["phases"]), arrays["filters"],
            arrays["normaliser"], facts["scale"], tuple(facts["gains"]), facts["quotient_bits"], layers,
            facts["brightest"], tuple(facts["sd_factors"]), facts["card"],
        )  # fmt: skip


def covariance_of(spread: np.ndarray) -> np.ndarray:
    """That of strain (n, 3, 3), of the standard deviation (n,) of exx: eyy has the same, exy that over √2."""
    return spread[:, None, None] ** 2 * np.diag([1.0, 1.0, 0.5])


def divided(sums: np.ndarray, divisors: np.ndarray, bits: int) -> np.ndarray:
    """``sums / divisors`` with `bits` bits behind the point, downwards, limited to [-1, 1); 0 where a divisor is 0.

    `sums` (n, filters) and `divisors` (n,), whole numbers.
    """
    quotients = (sums << bits) // np.maximum(divisors, 1)[:, None]
    return np.where(divisors[:, None] > 0, np.clip(quotients, -(2**bits), 2**bits - 1), 0)
