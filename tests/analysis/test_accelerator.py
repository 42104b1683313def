"""Networks read on whatever device their weights are on: shown without a GPU, by telling host and device apart.

Nothing here computes on a GPU. Tensors that no device was given for, or that came from numpy, count as the host's, all
others as the device's; what a GPU would refuse, mixing them or handing one of the device to numpy, is refused.
"""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from bluesky_edgestem.analysis import disk_tables
from bluesky_edgestem.analysis.crystal_networks import CrystalNetwork
from bluesky_edgestem.analysis.disk_patterns import compose
from bluesky_edgestem.analysis.networks import DescriptorNetwork
from bluesky_edgestem.analysis.optics import Optics


def of_host(tensor: Tensor) -> bool:
    return getattr(tensor, "of_host", False)


class Accelerator(TorchFunctionMode):
    """As if what is not the host's were on a device that numpy cannot read."""

    def __enter__(self):
        # No mode is told of `from_numpy`.
        self._told = patch.object(torch, "from_numpy", lambda array: torch.as_tensor(array))
        self._told.start()
        return super().__enter__()

    def __exit__(self, *error):
        self._told.stop()
        return super().__exit__(*error)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_device = [leaf for leaf in tensors if not of_host(leaf)]
        moved = kwargs.get("device") is not None or (
            function is Tensor.to and any(isinstance(arg, torch.device | str) for arg in args[1:])
        )
        if function in (Tensor.numpy, Tensor.__array__) and on_device:
            raise TypeError("numpy cannot read a tensor of the device")
        # Numbers may come from anywhere.
        arrays = [leaf for leaf in tensors if leaf.ndim]
        if not moved and len({of_host(leaf) for leaf in arrays}) > 1:
            raise RuntimeError(f"{function.__name__} of tensors of the host and of the device")
        out = function(*args, **kwargs)
        if isinstance(out, Tensor) and (moved or function is Tensor.cpu):
            out = out.view_as(out)  # which is another object, where the move was none
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                leaf.of_host = function is Tensor.cpu or (not moved and not on_device)
        return out


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def counted(phase: str, optics: Optics) -> np.ndarray:
    """Two patterns of one strained crystal, at 10⁵ electrons."""
    layers = [1] if phase == "MoS2" else [30]
    table = disk_tables.compute(phase, optics.energy_keV, layers, 1.1 * optics.semiangle_mrad + 2.0, 0.5)
    pattern = compose(table, optics, (0.01, 0.0, 0.005), 0.2, layers[0], (0.5, -0.5))
    return np.random.default_rng(0).poisson(1e5 * np.stack([pattern, pattern])).astype(np.uint32)


@pytest.mark.parametrize(
    ("network", "phase", "optics"),
    [(DescriptorNetwork, "MoS2", Optics()), (CrystalNetwork, "Si", Optics(200.0, 1.5, 0.4, 96))],
)
def test_a_network_makes_every_tensor_where_its_weights_are(network, phase, optics):
    frames = counted(phase, optics)
    ordinary = network.pretrained(device="cpu").predict(frames, optics)
    moved = network.pretrained(device="cpu")  # so that nothing is kept from the reading before
    with Accelerator():
        on_device = moved.predict(frames, optics)
    assert list(ordinary.flagged) == ["", ""]
    np.testing.assert_array_equal(on_device.strain, ordinary.strain)
    np.testing.assert_array_equal(on_device.strain_sd, ordinary.strain_sd)


def test_what_a_device_would_refuse_is_refused_here():
    with Accelerator():
        weights = torch.ones(3, device="cpu")
        for host in (torch.arange(3), torch.from_numpy(np.ones(3)), torch.tensor([1.0, 2.0, 3.0])):
            with pytest.raises(RuntimeError, match="of the host and of the device"):
                weights * host
        with pytest.raises(TypeError, match="numpy cannot read"):
            weights.exp().numpy()
        assert (weights * torch.arange(3).to(weights.device)).sum().cpu().numpy() == 3
