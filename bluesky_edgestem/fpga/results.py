"""A board's results as rows of numbers, in which they travel from its IOC to those who use them."""

from __future__ import annotations

import numpy as np

from ..analysis.descriptor import FeatureDescriptors
from .student import STATUS, UNKNOWN, covariance_of

#: What each row holds: where the frame was, and for how many electrons the board was set; strain, rotation [rad], beam
#: centre [pixels] with their standard deviations; probability of the second phase; why it is not known, in `FLAGS`.
COLUMNS = (
    "series", "frame", "electrons", "exx", "eyy", "exy", "strain_sd", "rotation", "rotation_sd", "centre_x",
    "centre_y", "centre_sd", "second_phase", "flag",
)  # fmt: skip
FLAGS = (*STATUS, UNKNOWN)
_AT = {name: k for k, name in enumerate(COLUMNS)}


def rows(series: int, frames: np.ndarray, electrons: float, found: FeatureDescriptors) -> np.ndarray:
    """Rows (n, 14) float64 of what a student made of frames (n,) of one series; see `COLUMNS`."""
    assert found.centre is not None and found.centre_sd is not None
    flags = np.array([FLAGS.index(flag) for flag in found.flagged], float)
    n = len(found)
    return np.column_stack(
        [
            np.full(n, series), frames, np.full(n, electrons), found.strain, found.strain_sd[:, 0], found.rotation,
            found.rotation_sd, found.centre, found.centre_sd[:, 0], found.phase_probability[:, 1], flags,
        ]
    )  # fmt: skip


def descriptors(rows: np.ndarray, phases: tuple[str, str]) -> FeatureDescriptors:
    """What `rows` (n, 14) were made of."""
    column = {name: rows[:, k] for name, k in _AT.items()}
    second = column["second_phase"]
    return FeatureDescriptors(
        rows[:, _AT["exx"] : _AT["exy"] + 1], covariance_of(column["strain_sd"]), column["rotation"],
        column["rotation_sd"], phases, np.stack([1 - second, second], 1),
        np.array([FLAGS[int(k)] for k in column["flag"]], dtype=str),
        centre=rows[:, _AT["centre_x"] : _AT["centre_y"] + 1],
        centre_sd=np.repeat(column["centre_sd"][:, None], 2, 1),
    )  # fmt: skip
