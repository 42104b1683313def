"""Moments of the energy, against Monte Carlo."""

import numpy as np
import pytest

from bluesky_edgestem.analysis.composite import CompositeSurrogate, second_order_moments
from bluesky_edgestem.analysis.elasticity import curvatures as second_derivatives
from bluesky_edgestem.analysis.elasticity import fit_elastic_model, term_slopes, terms
from bluesky_edgestem.analysis.fields import Kernel
from bluesky_edgestem.analysis.measurements import Measurement, StrainData
from bluesky_edgestem.analysis.sheet import Sheet, probit_moments

DRAWS = 400_000
KERNELS = [Kernel(np.array([15.0, 15.0]), 0.01)] * 3


def surrogate_of(measurements, level, phases=("MoS2", "WS2"), resolution=1.0):
    data = StrainData.of(measurements)
    return CompositeSurrogate(Sheet(data, KERNELS, level, phases, 100.0, resolution), data)


def test_moments_of_a_quadratic_are_exact():
    # Monte Carlo with 400,000 draws: mean to 4 standard errors, variance to 2 %.
    rng = np.random.default_rng(0)
    slope, half = rng.normal(size=(1, 3)), rng.normal(size=(3, 3))
    curvature, variance = (half + half.T)[None], rng.uniform(0.2, 1.0, (1, 3))
    mean, var = second_order_moments(np.array([0.3]), slope, curvature, variance)
    z = rng.normal(size=(DRAWS, 3)) * np.sqrt(variance)
    energy = 0.3 + z @ slope[0] + 0.5 * np.einsum("ni,ij,nj->n", z, curvature[0], z)
    assert mean[0] == pytest.approx(energy.mean(), abs=4 * energy.std() / np.sqrt(DRAWS))
    assert var[0] == pytest.approx(energy.var(), rel=0.02)


@pytest.mark.parametrize("strain_sd", [0.001, 0.005, 0.01])
def test_moments_of_the_elastic_energy_hold_beyond_the_second_order(strain_sd):
    # The quartic terms and the slope of the curvature are left out: 6 % of the sd at a strain known to 1 %.
    rng = np.random.default_rng(1)
    coefficients = np.array([0.0, 0.0, 22.0, 13.2, -40.0, -45.0, 12.0, 60.0, 80.0, 30.0, -60.0])
    modes, hexad = np.array([[0.03, 0.01, -0.008]]), np.array([[0.6, 0.8]])
    variance = strain_sd**2 * np.array([[2.0, 2.0, 2.0]])
    mean, var = second_order_moments(
        terms(modes, hexad) @ coefficients,
        term_slopes(modes, hexad) @ coefficients,
        second_derivatives(modes, hexad, coefficients),
        variance,
    )
    draws = modes + rng.normal(size=(DRAWS, 3)) * np.sqrt(variance)
    energy = terms(draws, np.broadcast_to(hexad, (DRAWS, 2))) @ coefficients
    assert mean[0] == pytest.approx(energy.mean(), abs=0.02 * energy.std())
    assert np.sqrt(var[0]) == pytest.approx(energy.std(), rel=0.06)


@pytest.mark.parametrize(("m", "v", "s"), [(0.0, 0.2, 0.5), (0.4, 0.3, 0.2), (-1.0, 0.5, 1.0), (0.3, 0.4, 0.0)])
def test_share_of_a_phase_has_the_moments_of_monte_carlo(m, v, s):
    from scipy.special import ndtr

    latent = m + np.sqrt(v) * np.random.default_rng(2).normal(size=DRAWS)
    share = ndtr(latent / s) if s else (latent > 0).astype(float)
    mean, variance = probit_moments(np.array([m / np.sqrt(v + s * s)]), np.array([v / (v + s * s)]))
    assert mean[0] == pytest.approx(share.mean(), abs=3e-3)
    assert variance[0] == pytest.approx(share.var(), abs=2e-3)


def rows(n, seed=0, energies=True):
    """Measurements of MoS2 to the left of x = 50 nm and WS2 to the right, uniformly stretched by 2 %."""
    rng = np.random.default_rng(seed)
    made = []
    for x, y in rng.uniform(0, 100, (n, 2)):
        stiffness = 22.0 if x < 50 else 30.0
        made.append(
            Measurement(
                x=x,
                y=y,
                strain=(0.02, 0.02, 0.0),
                covariance=((1e-6, 0.0, 0.0), (0.0, 1e-6, 0.0), (0.0, 0.0, 5e-7)),
                phase="MoS2" if x < 50 else "WS2",
                energy=stiffness * 0.04**2 if energies else float("nan"),
                gradient=(stiffness * 0.08, stiffness * 0.08, 0.0) if energies else (float("nan"),) * 3,
            )
        )
    return made


def test_energy_steps_from_phase_to_phase_and_only_the_boundary_is_unsure_of_it():
    surrogate = surrogate_of(rows(60), np.array([0.04, 0.0, 0.0]))
    at = surrogate.predict(np.array([[20.0, 50.0], [50.0, 50.0], [80.0, 50.0]]))
    # Each model is 0.25 % stiff in its own lattice: WS2's is smaller, so that its strain is larger.
    left, _, right = at.mean
    assert left == pytest.approx(22.0 * 0.04**2, abs=2e-3)
    assert right > left + 5e-3
    assert at.phase_variance[1] > 10 * max(at.phase_variance[0], at.phase_variance[2])
    assert (at.phase_variance <= at.variance).all()


def test_measuring_both_sides_of_a_boundary_makes_it_known():
    level = np.array([0.04, 0.0, 0.0])
    sparse = rows(30, seed=1)
    near = [m for k in range(-1, 2) for m in _pair(50.0, 50.0 + 2.0 * k, 1.5)]
    before, after = (
        surrogate_of(m, level, resolution=1.27).predict(np.array([[50.0, 50.0]])) for m in (sparse, sparse + near)
    )
    assert after.phase_variance[0] < 0.3 * before.phase_variance[0]


def _pair(x, y, apart):
    left, right = rows(1, seed=0)[0], rows(1, seed=0)[0]
    phases = {"MoS2": (-apart, 22.0), "WS2": (apart, 30.0)}
    made = []
    for m, (phase, (shift, stiffness)) in zip((left, right), phases.items(), strict=True):
        told = {"phase": phase, "energy": stiffness * 0.04**2, "gradient": (stiffness * 0.08, stiffness * 0.08, 0.0)}
        made.append(Measurement(**{**vars(m), **told, "x": x + shift, "y": y}))
    return made


def test_strain_without_energies_still_narrows_the_map():
    at = np.array([[20.0, 50.0]])
    level = np.array([0.04, 0.0, 0.0])
    variance = [surrogate_of(m, level).predict(at).variance[0] for m in ([], rows(60, energies=False), rows(60))]
    assert variance[0] > variance[1] > 10 * variance[2]


def test_no_data_gives_the_prior():
    surrogate = surrogate_of([], np.zeros(3), ("MoS2",))
    at = surrogate.predict(np.array([[1.0, 2.0]]))
    model = fit_elastic_model(np.empty((0, 3)), np.empty(0))
    assert at.mean[0] == pytest.approx(1e-4 * (model.coefficients[2] + 2 * model.coefficients[3]))
    assert at.variance[0] > 0
