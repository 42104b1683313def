"""What the networks benchmark takes for suspicious is what the network itself flags."""

from __future__ import annotations

import crystal_cases as cases
import numpy as np
import pytest
import torch
from bench_networks import suspicion

from bluesky_edgestem.analysis import disk_tables
from bluesky_edgestem.analysis.crystal_networks import LARGEST_STRAIN, CrystalNetwork
from bluesky_edgestem.analysis.disk_rendering import DeviceTable
from bluesky_edgestem.analysis.materials import MATERIALS, material


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_suspicion_is_of_the_material_and_the_strain_by_which_the_network_flags(monkeypatch) -> None:
    monkeypatch.setitem(MATERIALS, "Au", cases.FOREIGN["Au"])
    network = CrystalNetwork.pretrained(device="cpu")
    some = []
    for name in ("SrTiO3", "Au"):
        layers = (2 * round(material(name).layers(12.0) / 2),)
        table = DeviceTable.of(disk_tables.compute(name, cases.ENERGY, layers, 5.0, 0.8, 1.0))
        some += cases.held_out(table, 3, 1, network)
    rows = suspicion(network, some, 1e5, seed=1)
    generator = torch.Generator().manual_seed(6005)  # that of `suspicion`
    flagged = []
    for case in some:
        network.distortion = case.under.distortion[0].double().numpy()
        frame = case.frames(network.materials, 1e5, 1, generator)
        flagged.append(network.predict(frame.numpy(), case.optics).flagged[0] != "")
    assert np.array_equal((rows[:, 0] < 0) | (rows[:, 1] > LARGEST_STRAIN), flagged)
    assert flagged == [False] * 3 + [True] * 3
