"""The lattice that a pattern shows."""

import numpy as np
import pytest

from bluesky_edgestem.analysis.materials import MATERIALS, material
from bluesky_edgestem.analysis.projected_lattice import first_order, primitive, reciprocal, spots, symmetry, wrapped


@pytest.mark.parametrize(
    ("name", "shortest", "fold", "cells"),
    [("MoS2", 3.160, 6, 1), ("graphene", 2.46, 6, 1), ("SrTiO3", 3.905, 4, 1), ("Si", 5.431 * np.sqrt(3 / 8), 2, 2)],
)
def test_only_silicons_cell_is_centred_in_projection(name, shortest, fold, cells):
    crystal = material(name)
    vectors = primitive(crystal)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([shortest] * 2, abs=1e-6)
    assert np.linalg.det(vectors) * cells == pytest.approx(np.linalg.det(crystal.vectors))
    assert symmetry(crystal) == fold


@pytest.mark.parametrize(
    ("name", "length"),
    [("MoS2", 2 / np.sqrt(3) / 3.16), ("SrTiO3", 1 / 3.905), ("Si", np.sqrt(3) / 5.431)],
)
def test_nearest_reflections(name, length):
    assert first_order(material(name)) == pytest.approx(length)


@pytest.mark.parametrize("name", MATERIALS)
def test_spots_are_the_reflections_up_to_a_length(name):
    crystal = material(name)
    g = spots(crystal, 1.0)
    index = g @ primitive(crystal).T
    assert np.allclose(index, np.round(index), atol=1e-9)
    length = np.linalg.norm(g, axis=1)
    assert length[0] == 0 and (np.diff(length) > -1e-5).all() and length[-1] <= 1.0
    # As many as fit: the circle's area over a reflection's, but for those at its edge.
    expected = np.pi / np.linalg.det(reciprocal(primitive(crystal)))
    assert len(g) == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize(
    ("fold", "rotation", "expected"), [(6, 0.6, 0.6 - np.pi / 3), (4, 0.6, 0.6), (2, -np.pi / 2, np.pi / 2)]
)
def test_rotation_is_wrapped_by_the_symmetry(fold, rotation, expected):
    assert wrapped(rotation, fold) == pytest.approx(expected)
