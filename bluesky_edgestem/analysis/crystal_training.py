"""Training of the crystal network on patterns that are drawn as it goes, each used about three times."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from . import crystal_card, crystal_scoring, disk_library
from .averaging import AveragedWeights, check, of_noise, of_weights
from .crystal_losses import crystal_loss, disk_loss, genuine_loss, lattice_loss
from .crystal_networks import DOSES, CrystalNetwork
from .crystal_reading import precision
from .crystal_supply import Batch, supply, true_lattice
from .disk_library import TableSpec
from .disk_network import DiskNetwork
from .disk_rendering import DeviceTable
from .disk_store import WIDEST
from .materials import material

ENERGIES = (80.0, 200.0, 300.0)
RATE = 1.5e-3
WARM_UP = 200
#: Steps that weights are averaged over, about.
AVERAGED = 500
#: Steps that patterns are drawn for ahead, on a CPU and a GPU, and how often each is used in them.
AHEAD, USES = (8, 64), 3


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
                specs.append(TableSpec(name, energy, layers, WIDEST.get((name, energy), 10.2), 0.36, 1.12))
    return specs


def load_tables(path: Path, materials: Sequence[str], device: torch.device) -> dict[str, list[DeviceTable]]:
    """Tables by material."""
    return {
        name: [DeviceTable.of(disk_library.read(path, name, energy), device) for energy in ENERGIES]
        for name in materials
    }


def batch_loss(network: DiskNetwork, batch: Batch, half: bool | None) -> dict[str, torch.Tensor]:
    """Losses of one pass over a batch, numbers that are to be added.

    The evidence for what a pattern is has to be more than that for what it is not.
    """
    with precision(batch.counts.device, half):
        opinion = network(batch.counts, batch.beams, batch.lattice)
    right = batch.right
    p, w = len(right.dose), batch.wrong
    own, seen_from = opinion[:p], batch.lattice[:p]
    truth = true_lattice(right, seen_from)
    # Of a pattern whose lattice was not found there is nothing to learn but that.
    found = batch.genuine[:p]

    def mean(loss: torch.Tensor) -> torch.Tensor:
        return torch.where(found > 0, loss, 0.0).sum() / found.sum().clamp(min=1)

    told = ~torch.isnan(batch.genuine)
    genuine = genuine_loss(opinion, torch.nan_to_num(batch.genuine))
    ahead = own.says("evidence")[:w] - opinion[p : p + w].says("evidence")
    return {
        "lattice": 0.25 * mean(lattice_loss(own, right, seen_from, truth)),
        "disks": 0.25 * mean(disk_loss(own, right, seen_from, truth)),
        "crystal": mean(crystal_loss(own, right, seen_from)),
        "genuine": 2 * torch.where(told, genuine, 0.0).sum() / told.sum(),
        "evidence": 2
        * torch.where(found[:w] > 0, functional.softplus(-ahead), 0.0).sum()
        / found[:w].sum().clamp(min=1),
    }


def train(
    out: Path,
    data: Path,
    materials: Sequence[str],
    *,
    seed: int = 0,
    steps: int = 3000,
    minutes: float = 0.0,
    batch: int = 480,
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
        Patterns a step, of those that are drawn anew every `AHEAD` steps; each is used `USES` times, about.
    averaging : str
        One of `averaging.WAYS`: "weights" over steps, "noise" drawn twice for each of half as many patterns, "both" or
        "none".
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
    check(averaging)
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device is cuda, and torch finds no GPU: choose cpu, or auto, which takes a GPU if there is one"
        )
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
        disks.window.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    started = time.monotonic()
    average, history = _fitted(
        disks, tables, rng, generator, steps=steps, minutes=minutes, batch=batch,
        twice=of_noise(averaging), report=report,
    )  # fmt: skip
    taken = len(history)
    trained = time.monotonic() - started
    disks.eval()
    # Judging takes minutes: what was trained is kept before.
    network.save(out, {})
    scores = {}
    for kind, judged in (("last weights", disks), ("averaged weights", average.eval())):
        scores[kind] = _scores(judged, tables, held_out_patterns, seed, where, network, report)
    shipped = "averaged weights" if of_weights(averaging) else "last weights"
    if shipped == "averaged weights":
        network.disks.load_state_dict(average.state_dict())
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
        "history": [round(value, 3) for value in history[::100]],
    }
    card["held_out"] = scores[shipped]["held_out"]
    network.save(out, card)
    Path(out).with_suffix(".json").write_text(json.dumps(card | {"scores": scores}, indent=1))
    Path(out).with_suffix(".md").write_text(crystal_card.card_text(card))
    return card | {"scores": scores}


def _fitted(
    disks: DiskNetwork,
    tables: dict[str, list[DeviceTable]],
    rng: np.random.Generator,
    generator: torch.Generator,
    *,
    steps: int,
    minutes: float,
    batch: int,
    twice: bool,
    report: Callable[[str], None],
) -> tuple[DiskNetwork, list[float]]:
    """Train `disks` as `train` says: a network of averaged weights, and the loss of each step."""
    on_gpu = next(disks.parameters()).is_cuda
    average = AveragedWeights(disks, AVERAGED)
    optimiser = torch.optim.AdamW(disks.parameters(), lr=RATE, weight_decay=1e-3, fused=on_gpu)
    ahead = AHEAD[on_gpu]
    count = max(2, round(batch * ahead / USES / len(tables) / len(ENERGIES)))
    stock, skipped = None, 0
    history: list[torch.Tensor] = []
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
        if stock is None or step % ahead == 0:
            # Faint patterns teach little before bright ones are understood.
            lowest = 10 ** (3 + 1.5 * max(0.0, 1 - 3 * done))
            stock = supply(tables, disks, count, lowest, rng, generator, twice=twice)
        losses = batch_loss(disks, stock.batch(batch, generator), None)
        total = torch.stack(list(losses.values())).sum()
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        # One pattern that cannot be read must not undo what the others have taught.
        norm = torch.nn.utils.clip_grad_norm_(disks.parameters(), 2.0)
        if torch.isfinite(norm):
            optimiser.step()
            average.note()
        else:
            skipped += 1
        history.append(total.detach())
        if step % 100 == 0 or step == steps - 1:
            parts = ", ".join(f"{name} {float(loss.detach()):.3f}" for name, loss in losses.items())
            report(
                f"step {step}, {time.monotonic() - started:.0f} s: loss {float(total.detach()):.3f}; {parts}; "
                f"gradient {float(norm):.2f}; {skipped} steps skipped"
            )
    return average.model, [float(loss) for loss in history]


def _scores(disks, tables, count: int, seed: int, where, network: CrystalNetwork, report) -> dict:
    rng = np.random.default_rng([seed, 2])
    generator = torch.Generator(where).manual_seed(seed + 2)
    factors = crystal_scoring.calibrate(disks, tables, DOSES, count, rng, generator)
    judged = [DOSES[0], DOSES[2], DOSES[4], DOSES[6]]
    scores = crystal_scoring.judge(disks, tables, judged, factors[:, [0, 2, 4, 6]], count, rng, generator)
    for key, value in scores.items():
        report(f"{key}: {crystal_card.told(value)}")
    return {"calibration": factors.tolist(), "held_out": scores}
