"""The Gaussian processes, against gpytorch and against brute force."""

import numpy as np
import pytest

from bluesky_edgestem.analysis.fields import Field, Kernel, fit_strain_kernels, label_field


def data(n=30, seed=0, amplitude=0.01, lengths=(15.0, 25.0)):
    rng = np.random.default_rng(seed)
    kernel = Kernel(np.array(lengths), amplitude)
    positions = rng.uniform(0, 100, (n, 2))
    covariance = kernel(positions, positions) + 1e-12 * np.eye(n)
    noise = rng.uniform(0.5e-3, 2e-3, n) ** 2
    values = np.linalg.cholesky(covariance) @ rng.normal(size=n) + rng.normal(size=n) * np.sqrt(noise)
    return kernel, positions, values, noise


@pytest.mark.parametrize(("smoothness", "nu"), [(2.5, 2.5), (0.5, 0.5)])
def test_kernel_is_gpytorchs_matern(smoothness, nu):
    import torch
    from gpytorch.kernels import MaternKernel

    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 100, (7, 2)), rng.uniform(0, 100, (5, 2))
    theirs = MaternKernel(nu=nu, ard_num_dims=2)
    theirs.lengthscale = torch.tensor([[12.0, 30.0]])
    expected = 4.0 * theirs.double()(torch.as_tensor(a), torch.as_tensor(b)).to_dense().detach().numpy()
    assert Kernel(np.array([12.0, 30.0]), 2.0, smoothness)(a, b) == pytest.approx(expected, rel=1e-5)


def test_posterior_is_that_of_the_normal_equations():
    kernel, positions, values, noise = data()
    at = np.random.default_rng(1).uniform(0, 100, (9, 2))
    field = Field(kernel, positions, values, noise, level=0.002)
    inverse = np.linalg.inv(kernel(positions, positions) + np.diag(noise))
    cross = kernel(at, positions)
    mean, variance = field.predict(at)
    assert mean == pytest.approx(0.002 + cross @ inverse @ (values - 0.002), abs=1e-9)
    expected = kernel(at, at) - cross @ inverse @ cross.T
    assert variance == pytest.approx(np.diagonal(expected), abs=1e-10)
    assert field.covariance(at) == pytest.approx(expected, abs=1e-10)
    assert field.mean(at) == pytest.approx(mean, abs=1e-12)


def test_an_amplitude_that_differs_by_place_scales_both_sides_of_the_covariance():
    kernel, positions, *_ = data(8)
    rising = Kernel(kernel.lengths, kernel.amplitude, modulation=lambda at: 1 + at[:, 0] / 50)
    here, there = positions[:5], positions[5:]
    expected = (1 + here[:, :1] / 50) * kernel(here, there) * (1 + there[:, 0] / 50)
    assert rising(here, there) == pytest.approx(expected, rel=1e-12)
    assert rising.amplitude_at(here) ** 2 == pytest.approx(np.diagonal(rising(here, here)), rel=1e-6)
    bare = Field(rising, np.empty((0, 2)), np.empty(0), np.empty(0))
    assert bare.predict(here)[1] == pytest.approx(rising.amplitude_at(here) ** 2)


def test_without_data_the_posterior_is_the_prior():
    kernel = Kernel(np.array([10.0, 10.0]), 0.01)
    field = Field(kernel, np.empty((0, 2)), np.empty(0), np.empty(0), level=0.5)
    mean, variance = field.predict(np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert mean == pytest.approx([0.5, 0.5])
    assert variance == pytest.approx([1e-4, 1e-4])


def test_errors_of_data_left_out_are_those_of_leaving_them_out():
    kernel, positions, values, noise = data(12)
    field = Field(kernel, positions, values, noise)
    square, own = field.left_out()
    for i in range(12):
        others = np.arange(12) != i
        mean, variance = Field(kernel, positions[others], values[others], noise[others]).predict(positions[[i]])
        assert square[i] == pytest.approx((values[i] - mean[0]) ** 2 / (variance[0] + noise[i]), rel=1e-4)
        assert own[i] == pytest.approx(variance[0] / (variance[0] + noise[i]), rel=1e-4)


def three_modes(n, seed):
    kernel, positions, _, _ = data(n, seed)
    rng = np.random.default_rng(seed + 1)
    root = np.linalg.cholesky(kernel(positions, positions) + 1e-12 * np.eye(n))
    noise = np.full((n, 3), 1e-6)
    return positions, 0.003 + root @ rng.normal(size=(n, 3)) + 1e-3 * rng.normal(size=(n, 3)), noise


def test_fit_finds_lengths_amplitude_and_level():
    kernels, levels = fit_strain_kernels(*three_modes(150, 5), size=100.0)
    lengths = np.mean([k.lengths for k in kernels], axis=0)
    assert lengths == pytest.approx([15.0, 25.0], rel=0.25)
    assert np.mean([k.amplitude for k in kernels]) == pytest.approx(0.01, rel=0.25)
    assert np.mean(levels) == pytest.approx(0.003, abs=0.004)


def test_fit_is_the_same_each_time_and_goes_on_from_the_last():
    given = three_modes(40, 6)
    first, levels = fit_strain_kernels(*given, size=100.0)
    second, same = fit_strain_kernels(*given, size=100.0)
    assert [k.lengths.tolist() for k in first] == [k.lengths.tolist() for k in second]
    assert np.array_equal(levels, same)
    further, _ = fit_strain_kernels(*given, size=100.0, start=first)
    for a, b in zip(first, further, strict=True):
        assert b.lengths == pytest.approx(a.lengths, rel=0.02)


def test_too_few_positions_leave_the_prior():
    kernels, levels = fit_strain_kernels(np.zeros((3, 2)), np.zeros((3, 3)), np.ones((3, 3)), size=50.0)
    assert [k.lengths.tolist() for k in kernels] == [[5.0, 5.0]] * 3
    assert levels.tolist() == [0.0, 0.0, 0.0]


def test_label_field_follows_a_straight_boundary():
    rng = np.random.default_rng(0)
    positions = rng.uniform(0, 100, (80, 2))
    side = np.where(positions[:, 0] < 40, 1.0, -1.0)
    field = label_field(positions, np.column_stack([side, -side]), 0.02, 100.0)
    at = np.array([[25.0, y] for y in (20, 50, 80)] + [[55.0, y] for y in (20, 50, 80)])
    mean = field.mean(at)
    assert (mean[:3, 0] > 0.5).all() and (mean[3:, 0] < -0.5).all()
    assert mean[:, 0] == pytest.approx(-mean[:, 1])
