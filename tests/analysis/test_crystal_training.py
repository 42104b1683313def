"""The crystal network's training, at toy length."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bluesky_edgestem.analysis import crystal_training
from bluesky_edgestem.analysis.crystal_supply import supply
from bluesky_edgestem.analysis.disk_library import TableSpec
from bluesky_edgestem.analysis.disk_network import DiskNetwork
from bluesky_edgestem.analysis.disk_rendering import DeviceTable


@pytest.fixture(scope="module")
def tables():
    torch.set_num_threads(1)
    specs = [TableSpec(name, 200.0, (1,), 8.0, 1.0, 1.12) for name in ("MoS2", "graphene")]
    return {spec.material: [DeviceTable.of(spec.compute())] for spec in specs}


def fitted(tables, seed):
    torch.manual_seed(seed)
    network = DiskNetwork(2)
    average, losses = crystal_training._fitted(
        network, tables, np.random.default_rng(seed), torch.Generator().manual_seed(seed),
        steps=2, minutes=0.0, batch=3, twice=False, report=lambda line: None,
    )  # fmt: skip
    return torch.cat([p.detach().flatten() for p in network.parameters()]), average, losses


def test_the_same_seed_gives_the_same_weights_and_another_one_others(tables) -> None:
    first, average, losses = fitted(tables, 1)
    again, _, _ = fitted(tables, 1)
    other, _, _ = fitted(tables, 2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    assert isinstance(average, DiskNetwork)


def test_a_batch_has_right_wrong_and_strange_suppositions_in_order(tables) -> None:
    network = DiskNetwork(2)
    generator = torch.Generator().manual_seed(0)
    stock = supply(tables, network, 4, 1e4, np.random.default_rng(0), generator)
    batch = stock.batch(8, generator)
    assert len(batch.right.dose) == 8
    assert batch.wrong == 2
    assert len(batch.counts) == 8 + 2 + 2
    assert torch.equal(batch.counts[8:10], batch.right.counts[:2])
    assert torch.all(batch.genuine[8:] == 0)  # neither has a twin: MoS2 and graphene differ in lattice
    assert torch.all(batch.beams.material[8:10] != batch.beams.material[:2])


def test_what_cannot_be_trained_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="averaging is one of"):
        crystal_training.train(tmp_path / "a.pt", tmp_path / "d.h5", ["Si"], averaging="all")
    with pytest.raises(ValueError, match="unknown material 'gold'"):
        crystal_training.train(tmp_path / "a.pt", tmp_path / "d.h5", ["gold"])
