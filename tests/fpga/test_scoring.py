"""Scores of students, and the latency budget."""

from dataclasses import replace

import numpy as np
import pytest

from bluesky_edgestem.analysis.descriptor import FeatureDescriptors
from bluesky_edgestem.fpga import latency, scoring, teaching
from bluesky_edgestem.fpga.foreign import KINDS, foreign
from bluesky_edgestem.fpga.frontend import Frontend
from bluesky_edgestem.fpga.logic import Stream


class Reader:
    """Reads `truth` with errors of given standard deviation, whatever the frames; of some it does not know."""

    def __init__(self, truth: scoring.Cases, error: float, unknown_of_four: int = 1) -> None:
        self.truth, self.error, self.unknown = truth, error, unknown_of_four

    def predict(self, frames, optics) -> FeatureDescriptors:
        n, rng = len(frames), np.random.default_rng(int(1e6 * self.error))
        repeats = n // len(self.truth.strain)
        strain = np.tile(self.truth.strain, (repeats, 1)) + rng.normal(0, self.error, (n, 3))
        rotation = np.tile(self.truth.rotation, repeats)
        probability = np.tile((self.truth.phase[:, None] == ["MoS2", "WS2"]).astype(float), (repeats, 1))
        covariance = np.tile(np.eye(3) * self.error**2, (n, 1, 1))
        flagged = np.where(np.arange(n) % 4 < self.unknown, "no", "")
        centre = np.tile(self.truth.centre, (repeats, 1)) + rng.normal(0, 10 * self.error, (n, 2))
        return FeatureDescriptors(
            strain, covariance, rotation, np.full(n, 0.01), ("MoS2", "WS2"), probability, flagged,
            centre=centre, centre_sd=np.full((n, 2), 5 * self.error),
        )  # fmt: skip


def test_figures_are_those_of_the_errors_that_were_made():
    frontend, n = Frontend(48), 400
    rng = np.random.default_rng(0)
    optics = teaching.core_optics(frontend, replace(scoring.Optics(), n_pixels=48, pixel_mrad=4 / 3))
    truth = scoring.Cases(
        optics, np.full((n, 48, 48), 1 / 2304, np.float32), rng.uniform(-0.03, 0.03, (n, 3)),
        rng.uniform(-0.5, 0.5, n), rng.uniform(-2, 2, (n, 2)), rng.choice(["MoS2", "WS2"], n),
    )  # fmt: skip
    found = scoring.scores(Reader(truth, 0.002), Reader(truth, 0.001), truth, 1e4)
    assert found["student"]["flagged"] == found["teacher"]["flagged"] == 0.25
    low, high = found["ratio_interval"]
    assert low < found["ratio"] < high and high - low < 0.5
    # A quarter of all count as no strain, of 0.017: nearly all of both errors.
    assert found["ratio_all"] == pytest.approx(1.0, abs=0.05)
    # Of 600 values: 3 % of their standard deviation.
    assert found["student"]["strain_rms"]["exx"] == pytest.approx(0.002, rel=0.09)
    assert found["ratio"] == pytest.approx(2.0, rel=0.13)
    assert found["student"]["coverage"] == pytest.approx(0.95, abs=0.02)
    assert found["student"]["phase_right"] == 1.0
    assert found["student"]["rotation_rms"] == 0.0
    assert found["student"]["rotation_coverage"] == 1.0
    assert found["student"]["centre_rms"] == pytest.approx(0.02, rel=0.09)
    assert found["student"]["centre_coverage"] == pytest.approx(0.673, abs=0.04)  # of half the standard deviation


def test_what_a_teacher_flags_is_the_students_all_the_same():
    n = 40
    optics = replace(scoring.Optics(), n_pixels=48, pixel_mrad=4 / 3)
    strain = np.where(np.arange(n)[:, None] % 4 < 3, 1.0, 0.0) * np.ones(3)
    truth = scoring.Cases(
        optics, np.full((n, 48, 48), 1 / 2304, np.float32), strain, np.zeros(n), np.zeros((n, 2)), np.full(n, "MoS2")
    )

    class Nothing(Reader):
        """Says that there is no strain."""

        def predict(self, frames, optics):
            return replace(super().predict(frames, optics), strain=np.zeros((len(frames), 3)))

    found = scoring.scores(Nothing(truth, 0.001, 0), Reader(truth, 0.001, 3), truth, 1e4)
    assert found["student"]["strain_rms"]["exx"] == 0.0
    assert found["student alone"]["strain_rms"]["exx"] == pytest.approx(0.75**0.5, rel=1e-3)


def test_cases_are_drawn_anew_by_another_seed_and_the_same_by_the_same():
    frontend, domain = Frontend(48), teaching.Domain()
    optics = replace(scoring.Optics(), n_pixels=48, pixel_mrad=4 / 3)
    first, again, other = (scoring.cases(optics, 1, seed, domain, frontend) for seed in (1, 1, 2))
    assert np.array_equal(first.expected, again.expected)
    assert not np.array_equal(first.strain, other.strain)
    assert 0.9 < first.expected.sum() <= 1.001
    y, x = np.mgrid[:48, :48] - 23.5
    beam = np.array([(first.expected[0] * x).sum(), (first.expected[0] * y).sum()]) / first.expected.sum()
    # Scattered electrons pull at the centre of mass of a pattern that is cut off at its edges.
    assert first.centre[0] == pytest.approx(beam, abs=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_foreign_frames_keep_their_electrons_but_not_their_lattice(kind):
    frontend, rng = Frontend(48), np.random.default_rng(0)
    bins = rng.poisson(np.tile(np.linspace(0, 40, 48**2), (3, 1)))
    made = foreign(kind, bins, frontend, rng)
    assert made.shape == bins.shape
    assert not np.array_equal(made, bins)
    if kind == "scrambled":
        assert np.array_equal(made.sum(1), bins.sum(1))
        assert np.array_equal(made[:, ~frontend.outer], bins[:, ~frontend.outer])
    elif kind == "even":
        assert made.sum() == pytest.approx(bins.sum(), rel=0.02)  # five standard deviations
    elif kind == "beam alone":
        assert made[:, frontend.outer].sum() < 0.11 * bins.sum()
    else:
        assert made.min() == 65535


def test_the_budget_counts_what_is_on_the_wires():
    stream = Stream(8, 8, 48)
    parts = {part.name: part for part in latency.budget(stream, 306, 18, 100.0, cable_m=20.0)}
    assert parts["board: first pixel to last"].seconds == pytest.approx(2.88e-6)
    assert parts["board: last pixel to result"].seconds == pytest.approx(0.18e-6)
    assert parts["board: last pixel to result"].label == latency.CYCLES
    # The link is the faster: pixels are taken as they come.
    assert parts["all, link and board's input at once"].seconds == pytest.approx(3.06e-6 + 40 / 2e8 + 89 * 8 / 10e9)
    # 2304 bytes and one packet's overhead at 100 Gbit/s.
    assert parts["board's port, first pixel to last"].seconds == pytest.approx((2304 + 66) * 8 / 100e9)
    # Nine words, number and status: 23 bytes, at 10 Gbit/s.
    assert stream.result_bits == 184
    assert parts["result to the scan generator"].seconds == pytest.approx((23 + 66) * 8 / 10e9)
    assert parts["cables"].seconds == pytest.approx(40 / 2e8)


def test_the_budget_has_the_port_of_the_board_and_the_slower_of_link_and_input():
    link, *_, whole = latency.budget(Stream(8, 8, 48), 306, 18, 100.0, "xczu9eg", cable_m=0.0)
    assert (link.label, link.seconds) == (latency.DATASHEET, pytest.approx((2304 + 66) * 8 / 10e9))
    assert "10 Gbit/s, all that it can: SFP+ port of the ZCU102 (UG1182); 527,426 frames/s at most" in link.source
    link, *_, whole = latency.budget(Stream(16, 16, 96), 594, 18, 100.0, "xczu9eg", cable_m=0.0)
    # 18,432 bytes in three packets: 15 µs on the wire, 5.8 into the board.
    assert whole.seconds == pytest.approx((18432 + 3 * 66) * 8 / 10e9 + 0.18e-6 + 89 * 8 / 10e9)
