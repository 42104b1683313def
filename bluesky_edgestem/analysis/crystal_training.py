"""Training of the crystal network on patterns that are drawn as it goes, none of them twice."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from . import crystal_card, crystal_scoring, disk_library
from .crystal_losses import crystal_loss, disk_loss, genuine_loss, lattice_loss
from .crystal_networks import DOSES, CrystalNetwork
from .crystal_patterns import Drawn, draw
from .crystal_reading import look, precision
from .disk_library import TableSpec
from .disk_network import DiskNetwork
from .disk_rendering import DeviceTable
from .lattice_search import search
from .lattice_view import SCALE, Lattice, moved, rotations, supposed
from .materials import material
from .projected_lattice import symmetry

ENERGIES = (80.0, 200.0, 300.0)
RATE = 1e-3
WARM_UP = 200
AVERAGING = ("none", "weights", "noise", "both")
#: Largest semiangle and mistilt together of the tables of thick crystals, by energy [mrad]; disks may not overlap.
_WIDEST = {("Si", 200.0): 8.9, ("SrTiO3", 200.0): 8.2, ("Si", 300.0): 8.1, ("SrTiO3", 300.0): 7.6}


def table_specs(materials: Sequence[str]) -> list[TableSpec]:
    """Tables of disks that training draws from: coarse ones, half a minute each on one core."""
    specs = []
    for energy in ENERGIES:
        for name in materials:
            crystal = material(name)
            if crystal.max_layers <= 3:
                specs.append(TableSpec(name, energy, tuple(range(1, crystal.max_layers + 1)), 10.4, 0.8, 1.25))
            else:
                layers = tuple(crystal.layers(t) for t in np.arange(3.0, 44.1, 2.0))
                specs.append(TableSpec(name, energy, layers, _WIDEST.get((name, energy), 10.2), 0.36, 1.12))
    return specs


def load_tables(path: Path, materials: Sequence[str], device: torch.device) -> dict[str, list[DeviceTable]]:
    """Tables by material."""
    return {
        name: [DeviceTable.of(disk_library.read(path, name, energy), device) for energy in ENERGIES]
        for name in materials
    }


def first_guesses(drawn: Drawn, generator: torch.Generator) -> Lattice:
    """Lattices about as wrong as those that `lattice_search` finds, some of them less."""
    device, b = drawn.counts.device, len(drawn.dose)

    def normal(*shape: int):
        return torch.randn(b, *shape, generator=generator, device=device)

    wide = 10 ** (-1.5 * torch.rand(b, generator=generator, device=device))
    truth = drawn.lattice(drawn.rotation + 0.01 * wide * normal())
    affine = truth.affine + (0.6 * wide)[:, None, None] * normal(2, 2) / SCALE
    # A search that sees little leaves the lattice unstrained.
    lost = (torch.rand(b, generator=generator, device=device) < 0.3)[:, None, None]
    affine = torch.where(lost, torch.eye(2, device=device) + 0.2 * (affine - truth.affine), affine)
    return Lattice(truth.turn, affine, truth.centre + (0.4 * wide)[:, None] * normal(2))


def positive_loss(network: DiskNetwork, drawn: Drawn, generator: torch.Generator, half: bool | None):
    """Loss (b,) of patterns supposed to be what they are, over two passes; of the last the lattice and the evidence."""
    lattice = first_guesses(drawn, generator)
    angle = torch.atan2(lattice.turn[:, 1, 0], lattice.turn[:, 0, 0])
    truth = drawn.lattice(angle)
    total, of_lattice, opinion = 0.0, None, None
    for weight in (0.5, 1.0):
        with precision(drawn.counts.device, half):
            opinion = network(drawn.counts, drawn.beams, lattice)
        of_lattice = lattice_loss(opinion, drawn, lattice, truth)
        total = total + weight * (
            of_lattice
            + 0.1 * disk_loss(opinion, drawn, lattice, truth)
            + 0.5 * crystal_loss(opinion, drawn, lattice)
            + genuine_loss(opinion, True)
        )
        with torch.no_grad():
            lattice = moved(drawn.beams, lattice, opinion.unknowns)
    return total, of_lattice, opinion.says("evidence")


def _opinion_of_wrong(network: DiskNetwork, counts, beams, lattice: Lattice, half: bool | None):
    with torch.no_grad():
        lattice, _ = look(network, counts, beams, lattice, 1, half)
    with precision(counts.device, half):
        return network(counts, beams, lattice)


def negative_loss(
    network: DiskNetwork,
    drawn: Drawn,
    strange: Drawn,
    evidence,
    names: Sequence[str],
    rng: np.random.Generator,
    generator: torch.Generator,
    half: bool | None,
):
    """Loss of patterns that are not of the supposed crystal, or not seen from its lattice; a number.

    `evidence` (b,) is what the network said of `drawn` supposed to be what they are: it has to be more.
    """
    device = drawn.counts.device
    index = drawn.beams.material
    number = int(rng.integers(len(names)))
    fold = symmetry(material(names[number]))
    others = torch.nonzero(index != number)[:, 0]
    others = others[torch.randperm(len(others), generator=generator, device=device)][: max(1, len(index) // 4)]
    crowd = Drawn.joined([drawn[others], strange])
    beams = supposed(crowd.beams, number, names[number])
    with torch.no_grad():
        found, _ = search(crowd.counts, beams, fold)
    opinion = _opinion_of_wrong(network, crowd.counts, beams, found, half)
    loss = genuine_loss(opinion, False).mean()
    ahead = evidence[others] - opinion.says("evidence")[: len(others)]
    parts = [torch.nn.functional.softplus(-ahead)]

    # Materials of one family differ by their disks' brightness alone.
    for i, name in enumerate(names):
        for j, twin in enumerate(names):
            if i != j and material(name).family == material(twin).family:
                own = torch.nonzero(index == i)[:, 0]
                beams = supposed(drawn[own].beams, j, twin)
                guess = first_guesses(drawn[own], generator)
                opinion = _opinion_of_wrong(network, drawn[own].counts, beams, guess, half)
                parts.append(torch.nn.functional.softplus(opinion.says("evidence") - evidence[own]))

    turned = drawn[torch.randperm(len(index), generator=generator, device=device)[: max(1, len(index) // 8)]]
    guess = first_guesses(turned, generator)
    off = 0.08 + 0.35 * torch.rand(len(turned.dose), generator=generator, device=device)
    guess = Lattice(rotations(off) @ guess.turn, guess.affine, guess.centre)
    opinion = _opinion_of_wrong(network, turned.counts, turned.beams, guess, half)
    return loss + 0.5 * genuine_loss(opinion, False).mean() + 2 * torch.cat(parts).mean()


def train(
    out: Path,
    data: Path,
    materials: Sequence[str],
    *,
    seed: int = 0,
    steps: int = 3000,
    minutes: float = 0.0,
    batch: int = 240,
    averaging: str = "weights",
    device: str = "auto",
    workers: int = 1,
    held_out_patterns: int = 48,
    command: str = "",
    report: Callable[[str], None] = print,
) -> dict:
    """Train a crystal network from nothing; write its weights, a card and its scores beside them.

    Parameters
    ----------
    out : Path
        Weights file to write; card and scores have its name, ending in .md and .json.
    data : Path
        HDF5 file of the tables of disks; written or completed where they are missing.
    materials : sequence of str
        Names of `materials.MATERIALS`.
    seed : int
        Settles everything: the same seed and steps give the same weights on the same CPU.
    steps : int
        Of the optimiser.
    minutes : float
        Stop after so long even if steps are left, the learning rate having come down by then; 0 for no limit.
    batch : int
        Patterns a step, drawn anew for each.
    averaging : str
        "weights" averages the weights over the last thousands of steps (Izmailov et al., 2018, exponentially), "noise"
        draws each pattern's noise twice in a step, so that half as many conditions are seen; "both" or "none".
    device : str
        "auto" takes a GPU where there is one.
    workers : int
        Processes that compute tables.
    held_out_patterns : int
        Patterns of each material, energy and dose that the network is calibrated on, and judged on.
    command : str
        What was typed, for the card.
    report : callable
        Takes a line of progress.

    Returns
    -------
    dict
        The card.
    """
    if averaging not in AVERAGING:
        raise ValueError(f"averaging is one of {', '.join(AVERAGING)}, got {averaging!r}")
    began = time.monotonic()
    names = list(dict.fromkeys(materials))
    for name in names:
        material(name)
    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    made = disk_library.generate(
        data, table_specs(names), workers=workers, progress=lambda done, of: report(f"tables: {done} of {of}")
    )
    report(f"tables: {made} computed, in {data}")
    tables = load_tables(data, names, where)
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])
    generator = torch.Generator(where).manual_seed(seed + 1)
    network = CrystalNetwork(names)
    disks = network.disks.to(where)
    if where.type == "cuda":
        # Patterns are rendered in single precision, not in what a GPU takes for it by default.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        disks.window.to(memory_format=torch.channels_last)
    average = AveragedModel(disks, multi_avg_fn=get_ema_multi_avg_fn(0.998))
    optimiser = torch.optim.AdamW(disks.parameters(), lr=RATE, weight_decay=1e-3, fused=where.type == "cuda")
    share = max(1, batch // len(names))
    twice = averaging in ("noise", "both")
    history: list[float] = []
    skipped = taken = 0
    started = time.monotonic()
    for step in range(steps):
        done = step / steps
        if minutes:
            done = max(done, (time.monotonic() - started) / (60 * minutes))
            if done >= 1:
                break
        rate = RATE * min(1.0, (step + 1) / WARM_UP) * (0.5 * (1 + np.cos(np.pi * done)) + 1e-3)
        for group in optimiser.param_groups:
            group["lr"] = rate
        with torch.no_grad():
            parts = [
                draw(
                    tables[n][int(rng.integers(len(ENERGIES)))],
                    names,
                    share // (2 if twice else 1) or 1,
                    rng,
                    generator,
                )
                for n in names
            ]
            if twice:
                parts += [p.noisy_again(generator) for p in parts]
            drawn = Drawn.joined([p.cleaned() for p in parts])
            which = tables[names[int(rng.integers(len(names)))]][int(rng.integers(len(ENERGIES)))]
            strange = draw(which, names, max(1, share // 2), rng, generator, foreign=True).cleaned()
        loss, of_lattice, evidence = positive_loss(disks, drawn, generator, None)
        wrong = negative_loss(disks, drawn, strange, evidence, names, rng, generator, None)
        total = loss.mean() + wrong
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        # One pattern that cannot be read must not undo what the others have taught.
        norm = torch.nn.utils.clip_grad_norm_(disks.parameters(), 2.0)
        if torch.isfinite(norm):
            optimiser.step()
            average.update_parameters(disks)
        else:
            skipped += 1
        taken += 1
        if step % 50 == 0 or step == steps - 1:
            history.append(float(total.detach()))
            report(
                f"step {step}, {time.monotonic() - started:.0f} s: loss {history[-1]:.3f}, of the lattices "
                f"{float(of_lattice.detach().mean()):.3f}, of wrong suppositions {float(wrong.detach()):.3f}, "
                f"{skipped} steps skipped"
            )
    trained = time.monotonic() - started
    disks.eval()
    # Judging takes minutes: what was trained is kept before.
    network.save(out, {})
    scores = {}
    for kind, judged in (("last weights", disks), ("averaged weights", average.module.eval())):
        scores[kind] = _scores(judged, tables, held_out_patterns, seed, where, network, report)
    shipped = "averaged weights" if averaging in ("weights", "both") else "last weights"
    if shipped == "averaged weights":
        network.disks.load_state_dict(average.module.state_dict())
    network.calibration.copy_(torch.tensor(scores[shipped]["calibration"]))
    network.to("cpu")
    card = {
        "command": command,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "seed": seed,
        "materials": names,
        "steps": taken,
        "batch": batch,
        "averaging": averaging,
        "device": torch.cuda.get_device_name() if where.type == "cuda" else platform.machine(),
        "training_minutes": round(trained / 60, 2),
        "minutes": round((time.monotonic() - began) / 60, 2),
        "parameters": sum(p.numel() for p in network.parameters()),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__},
        "history": [round(value, 3) for value in history],
    }
    card["held_out"] = scores[shipped]["held_out"]
    network.save(out, card)
    Path(out).with_suffix(".json").write_text(json.dumps(card | {"scores": scores}, indent=1))
    Path(out).with_suffix(".md").write_text(crystal_card.card_text(card))
    return card | {"scores": scores}


def _scores(disks, tables, count: int, seed: int, where, network: CrystalNetwork, report) -> dict:
    rng = np.random.default_rng([seed, 2])
    generator = torch.Generator(where).manual_seed(seed + 2)
    factors = crystal_scoring.calibrate(disks, tables, DOSES, count, rng, generator)
    judged = [DOSES[0], DOSES[2], DOSES[4], DOSES[6]]
    scores = crystal_scoring.judge(disks, tables, judged, factors[:, [0, 2, 4, 6]], count, rng, generator)
    for key, value in scores.items():
        report(f"{key}: {crystal_card.told(value)}")
    return {"calibration": factors.tolist(), "held_out": scores}
