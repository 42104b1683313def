"""The scores of the strain benchmark tell a reading's parts of error apart, whatever vectors describe its lattice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import strain_cases as cases
import strain_scores as scores

from bluesky_edgestem.analysis.affine_readings import AffineReadings


@pytest.fixture(scope="module")
def case():
    kind = cases.CASES["grains-128"]
    specimen = cases.draw_specimen(replace(kind, side=16), 1)
    n = len(specimen)
    # Information of 1/sd² for each parameter alone: the bound at dose 1 is sd.
    information = np.broadcast_to(np.diag([1e6] * 7), (n, 7, 7))
    return cases.StrainCase("grains", 1, "Si", kind.optics, specimen, 25 * np.eye(2), np.zeros((n, 1, 1)), information)


def moved(case, change):
    """The case's lattices with strains changed by `change` (n, 3)."""
    from bluesky_edgestem.analysis import crystals

    f = crystals.deformation(case.specimen.strain + change, case.specimen.rotation)
    return case.reference @ np.linalg.inv(f)


def test_bias_and_scatter_are_told_apart(case):
    rng = np.random.default_rng(0)
    n = len(case.specimen)
    bias = np.zeros((n, 3))
    bias[:, 0] = 2e-3 * rng.standard_normal(n) + 1e-3
    draws = [scores.Reading(moved(case, bias + 1e-3 * rng.standard_normal((n, 3)))) for _ in range(2)]
    found = scores.summarise(draws, case, 1.0)
    # 256 positions know a standard deviation to 4.4 %, and two draws' covariance to about a tenth.
    assert found["bias"]["exx"] == pytest.approx(np.hypot(2e-3, 1e-3), rel=0.15)
    assert found["scatter"]["exx"] == pytest.approx(1e-3, rel=0.15)
    assert found["scatter"]["eyy"] == pytest.approx(1e-3, rel=0.15)
    assert found["bias"]["eyy"] < 4e-4
    assert found["offset"]["exx"] == pytest.approx(1e-3, abs=4e-4)
    assert found["ratio"]["eyy"] == pytest.approx(1.0, rel=0.15)
    assert found["rms"]["rotation"] < 1e-12
    assert scores.summarise(draws, case, 1.0, relative=True)["offset"]["exx"] == found["offset"]["exx"]


def test_any_vectors_of_the_lattice_will_do_but_no_other_lattice(case):
    other = np.array([[0, 1], [-1, 0]]) @ np.array([[1, 1], [0, 1]]) @ case.lattice
    assert scores.errors(scores.Reading(other), case) == pytest.approx(0, abs=1e-12)
    allowed = np.array([[1, 1], [-1, 1]]) @ case.lattice  # of silicon's reflections, half are forbidden
    assert scores.errors(scores.Reading(allowed), case) == pytest.approx(0, abs=1e-12)
    wrong = case.lattice * np.array([1.4, 1.0])[:, None]
    assert np.isnan(scores.errors(scores.Reading(wrong), case)).all()
    missed = case.lattice.copy()
    missed[:64] = np.nan
    assert scores.summarise([scores.Reading(missed)] * 2, case, 1.0)["lost"] == pytest.approx(0.25)


def test_an_affine_reading_brings_its_intervals_along(case):
    rng = np.random.default_rng(1)
    base = case.lattice[17]  # as good a base pattern as any
    exact = np.swapaxes(np.linalg.solve(base[None], case.lattice), 1, 2)
    sd, n = 1e-3, len(exact)
    readings = [
        scores.from_affine(
            AffineReadings(
                exact + sd * rng.standard_normal(exact.shape), np.broadcast_to(sd**2 * np.eye(4), (n, 4, 4)),
                np.zeros((n, 2)), np.zeros((n, 2)), np.ones(n), np.array([""] * (n - 1) + ["dark"]),
            ),
            base, case,
        )
        for _ in range(2)
    ]  # fmt: skip
    found = scores.summarise(readings, case, 1.0)
    # 1530 strains whose errors are normal: 95 % to 0.6 %.
    assert found["coverage"] == pytest.approx(0.95, abs=0.025)
    assert found["rotation_coverage"] == pytest.approx(0.95, abs=0.04)
    assert found["rms"]["exx"] == pytest.approx(sd, rel=0.1)
    assert found["rms"]["exy"] == pytest.approx(sd / np.sqrt(2), rel=0.1)
    assert found["lost"] == pytest.approx(1 / n, rel=0.01)
