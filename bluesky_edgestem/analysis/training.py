"""Training of the descriptor network, in two steps, and its report card.

First the scattering model is fitted to noise-free multislice patterns, where the truth of every disk's place is
known: the Poisson deviance of the disks' windows. Then noise is drawn at doses from 10³ to 10⁶, and what the network
says of its own errors is trained by the normal log-likelihood of the truth.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import training_data
from .averaging import AveragedWeights, check, of_noise, of_weights
from .cramer_rao import pattern_information
from .diffraction import detected
from .disk_likelihood import windows
from .evaluation import Cases, Errors, measure, summarise
from .lattice_inference import positions, prepare
from .networks import DescriptorNetwork
from .readings import NOT_FOUND, Reading
from .scattering import Beam, ScatteringModel
from .training_card import card_text
from .training_data import PatternSet

#: Part of the steps, one in so many, that weights are averaged over, about.
AVERAGED = 10


def draw_detector(made: PatternSet, rng: np.random.Generator):
    """The optics of a condition with a drawn point spread and background."""
    background = 0.0 if rng.uniform() < 0.05 else float(rng.uniform(0.0, 0.1))
    return replace(made.optics, psf_px=float(rng.uniform(0.4, 0.8)), background=background)


def blurred(made: PatternSet, optics, which: np.ndarray) -> np.ndarray:
    """Expected counts per electron (b, n, n) of patterns `which` of a condition, on the detector of `optics`."""
    return np.stack([detected(made.patterns[i], optics, tuple(made.shift_px[i])) for i in which])


def scattering_loss(model: ScatteringModel, made: PatternSet, rng: np.random.Generator) -> Tensor:
    """Poisson deviance per scattered electron of the disks of one condition's patterns of one phase."""
    optics = draw_detector(made, rng)
    beam = Beam(optics)
    which = np.flatnonzero(np.isinf(made.interface))[:12]
    image = torch.tensor(blurred(made, optics, which))
    n = optics.n_pixels
    unknowns = torch.tensor(np.column_stack([made.strain[which], made.rotation[which]]), dtype=torch.float32)
    centre = torch.tensor(made.shift_px[which], dtype=torch.float32) + (n - 1) / 2
    relative = positions(unknowns, beam.vectors)
    places = centre[:, None] + relative
    half = int(beam.radius + 5)
    size = 2 * half + 1
    corner = torch.round(places).long() - half
    axis = torch.arange(size)
    x = (corner[..., 0, None] + axis)[:, :, None, :]
    y = (corner[..., 1, None] + axis)[:, :, :, None]
    distance = torch.sqrt((x - places[..., 0, None, None]) ** 2 + (y - places[..., 1, None, None]) ** 2)
    from_beam2 = (x - centre[:, None, 0, None, None]) ** 2 + (y - centre[:, None, 1, None, None]) ** 2
    inside = windows(beam.seen(centre), corner, size).reshape(distance.shape) * (distance < beam.radius + 4)
    log = model.log_strained(beam, relative)[torch.arange(len(which)), torch.tensor(made.phase[which])]
    rate = (
        torch.exp(log)[..., None, None] * model.profile(beam, distance)
        + beam.background(from_beam2)
        + model.floor(beam)
    )
    seen = windows(image, corner, size).reshape(rate.shape)
    deviance = (rate - seen - seen * torch.log(rate / seen.clamp(min=1e-12))) * inside
    return deviance.sum() / (torch.exp(log).sum())


def fit_scattering(
    model: ScatteringModel, sets: list[PatternSet], epochs: int, rng: np.random.Generator, averaging: str = "none"
) -> list[float]:
    """Fit the scattering model to noise-free patterns; the mean loss of each epoch."""
    average = AveragedWeights(model, epochs * len(sets) // AVERAGED)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    steps = epochs * len(sets)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for i in rng.permutation(len(sets)):
            optimiser.zero_grad()
            loss = scattering_loss(model, sets[i], rng)
            loss.backward()
            optimiser.step()
            average.note()
            schedule.step()
            total += float(loss.detach())
        losses.append(total / len(sets))
    if of_weights(averaging):
        model.load_state_dict(average.model.state_dict())
    return losses


def draw_counts(made: PatternSet, optics, which: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Counts (b, n, n) of patterns at doses drawn between 10³ and 10⁶ electrons, below saturation."""
    expected = blurred(made, optics, which)
    most = 6e4 / expected.max(axis=(1, 2))
    dose = np.minimum(10 ** rng.uniform(3, 6, len(which)), most)
    return torch.tensor(rng.poisson(expected * dose[:, None, None]), dtype=torch.float32)


def reading_losses(reading: Reading, made: PatternSet, which: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Negative log-likelihoods (b,) of the true strain, rotation and phase."""
    strain = torch.tensor(made.strain[which], dtype=torch.float32)
    error = reading.unknowns[:, :3] - strain
    factor = torch.linalg.cholesky(reading.covariance[:, :3, :3])
    white = torch.linalg.solve_triangular(factor, error[..., None], upper=False)[..., 0]
    strain_loss = 0.5 * (white**2).sum(-1) + torch.log(factor.diagonal(dim1=1, dim2=2)).sum(-1)
    third = np.pi / 3
    turn = reading.unknowns[:, 3] - torch.tensor(made.rotation[which], dtype=torch.float32)
    turn = turn - third * torch.round(turn / third)
    variance = reading.covariance[:, 3, 3]
    rotation_loss = 0.5 * (turn**2 / variance + torch.log(variance))
    phase_loss = torch.nn.functional.cross_entropy(
        reading.phase_logits, torch.tensor(made.phase[which]), reduction="none"
    )
    return strain_loss, rotation_loss, phase_loss


def fit_uncertainties(
    network: DescriptorNetwork,
    sets: list[PatternSet],
    epochs: int,
    rng: np.random.Generator,
    averaging: str = "none",
) -> list[float]:
    """Train what the network says of its errors, on noisy patterns; the mean loss of each epoch."""
    average = AveragedWeights(network, epochs * len(sets) // AVERAGED)
    for parameter in network.scattering.parameters():
        parameter.requires_grad_(False)
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * len(sets))
    losses = []
    for _ in range(epochs):
        total = 0.0
        for i in rng.permutation(len(sets)):
            made = sets[i]
            optics = draw_detector(made, rng)
            which = np.arange(len(made))
            if of_noise(averaging):
                which = np.repeat(rng.permutation(which)[: (len(which) + 1) // 2], 2)
            # The background that is stated may be wrong, and the network learns what that costs.
            stated = optics.background * (np.exp(rng.normal(0, 0.3)) if rng.uniform() < 0.25 else 1.0)
            with torch.no_grad():
                setting = prepare(network.scattering, Beam(replace(optics, background=float(min(stated, 0.2)))))
            reading = network(draw_counts(made, optics, which, rng), setting)
            # A lattice that was not found is flagged, and says nothing of the uncertainty of those found.
            found = (reading.log_likelihood > NOT_FOUND).float()
            strain, rotation, phase = reading_losses(reading, made, which)
            loss = ((strain.clamp(max=30) + rotation.clamp(max=30) + phase) * found).sum() / found.sum().clamp(min=1)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimiser.step()
            average.note()
            schedule.step()
            total += float(loss.detach())
        losses.append(total / len(sets))
    if of_weights(averaging):
        network.load_state_dict(average.model.state_dict())
    for parameter in network.scattering.parameters():
        parameter.requires_grad_(True)
    return losses


def held_out_cases(sets: list[PatternSet], patterns: int, rng: np.random.Generator) -> list[Cases]:
    """Patterns of one phase from each condition, with the information that they hold."""
    cases = []
    for made in sets:
        optics = draw_detector(made, rng)
        which = np.flatnonzero(np.isinf(made.interface))[:patterns]
        phase = np.array(training_data.PHASES)[made.phase[which]]
        information = [
            pattern_information(made.strain[i], made.rotation[i], lambda p, f=formula: np.full(len(p), f), optics)
            for i, formula in zip(which, phase, strict=True)
        ]
        cases.append(
            Cases(
                optics,
                blurred(made, optics, which),
                made.strain[which],
                made.rotation[which],
                made.shift_px[which],
                phase,
                np.array(information),
            )
        )
    return cases


def train(
    out: Path,
    data: Path,
    seed: int = 0,
    patterns: int = 4800,
    workers: int = 1,
    epochs: tuple[int, int] = (6, 4),
    averaging: str = "none",
    held_out_patterns: int = 2,
    command: str = "",
    report: Callable[[str], None] = print,
) -> dict:
    """Train a descriptor network from nothing; write its weights, and a card beside them.

    Parameters
    ----------
    out : Path
        Weights file to write; the card has its name, ending in .md.
    data : Path
        HDF5 file of the multislice patterns; written or completed where they are missing.
    seed : int
        Settles the patterns, their noise and the training: the same seed gives the same weights on the same machine.
    patterns : int
        Multislice patterns, of which every fifth condition is held out; 60 ms each on one core.
    workers : int
        Processes that compute patterns.
    epochs : (int, int)
        Of the scattering model and of the uncertainties.
    averaging : str
        One of `averaging.WAYS`: "weights" over steps, "noise" drawn twice for each of half as many patterns, "both" or
        "none".
    held_out_patterns : int
        Patterns of each held-out condition that the network is judged on.
    command : str
        What was typed, for the card.
    report : callable
        Takes a line of progress.

    Returns
    -------
    dict
        The card.
    """
    check(averaging)
    began = time.time()
    made = training_data.generate(
        data, seed, patterns, workers, lambda done, of: report(f"patterns: condition {done} of {of}")
    )
    report(f"patterns: {made} conditions computed, in {data}")
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])
    sets = training_data.read(data, held_out=False, n_patterns=patterns)
    network = DescriptorNetwork()
    losses = fit_scattering(network.scattering, sets, epochs[0], rng, averaging)
    report(f"scattering model: deviance {losses[0]:.5f} to {losses[-1]:.5f} per scattered electron")
    losses = fit_uncertainties(network, sets, epochs[1], rng, averaging)
    report(f"uncertainties: loss {losses[0]:.3f} to {losses[-1]:.3f}")
    network.eval()
    held_out = training_data.read(data, held_out=True, n_patterns=patterns)
    report(f"judging on {len(held_out)} held-out conditions")
    cases = held_out_cases(held_out, held_out_patterns, rng)
    scores = {
        f"{dose:.0e}".replace("e+0", "e"): summarise(Errors.joined([measure(network, c, dose, 4, rng) for c in cases]))
        for dose in (1e4, 1e5, 1e6)
    }
    card = {
        "command": command,
        "date": time.strftime("%Y-%m-%d", time.gmtime(began)),
        "seed": seed,
        "patterns": sum(map(len, sets)),
        "held_out_patterns": sum(map(len, held_out)),
        "minutes": round((time.time() - began) / 60, 1),
        "parameters": sum(p.numel() for p in network.parameters()),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__},
        "held_out": scores,
    }
    network.save(out, card)
    Path(out).with_suffix(".md").write_text(card_text(card))
    return card
