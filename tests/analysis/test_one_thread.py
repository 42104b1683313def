"""Libraries' threads are held back inside, also those of libraries that are loaded late, and are as before after."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from bluesky_edgestem.analysis.one_thread import one_thread


def blas() -> set[int]:
    """Threads of numpy's linear algebra, and of whatever else is loaded."""
    np.linalg.inv(np.eye(2))
    return {found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def two_threads():
    """However many there are by default."""
    with threadpool_limits(2):
        yield


def test_linear_algebra_stays_in_its_thread_inside_and_is_as_before_after() -> None:
    assert blas() == {2}
    with one_thread():
        assert blas() == {1}
        with one_thread():
            assert blas() == {1}
        assert blas() == {1}
    assert blas() == {2}
    with pytest.raises(KeyError), one_thread():
        raise KeyError
    assert blas() == {2}


def test_libraries_that_are_loaded_after_the_first_time_are_limited_too() -> None:
    code = """
import sys
from bluesky_edgestem.analysis.one_thread import one_thread
with one_thread():
    assert "torch" not in sys.modules
import torch
with one_thread():
    print(torch.get_num_threads())
print(torch.get_num_threads())
"""
    # MKL's own number, which Dask leaves in the environment, would come before OpenMP's.
    two = {name: value for name, value in os.environ.items() if name != "MKL_NUM_THREADS"} | {"OMP_NUM_THREADS": "2"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=two)
    assert said.stdout.split() == ["1", "2"], said.stderr
