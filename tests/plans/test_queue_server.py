"""Plans as a queue server takes them: by its own description of them, with arguments that came as JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIELD = [-50.0, -50.0, 100.0, 100.0]


@pytest.fixture(scope="module")
def verdict():
    """What the server says of requests: for each "" or why it refuses it."""
    subprocess.run([ROOT / "scripts/peers"], check=True)
    (packages,) = (ROOT / ".venv-queueserver").glob("lib/python*/site-packages")

    def ask(requests):
        done = subprocess.run(
            [sys.executable, ROOT / "tests/peers/queue_plans.py", json.dumps(requests)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(packages), str(ROOT)])},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return ask


@pytest.mark.timeout(900)
def test_every_plan_is_described_and_takes_arguments_that_are_json(verdict):
    optics = {"energy_keV": 200.0, "semiangle_mrad": 1.5, "pixel_mrad": 0.3}
    surveyed = {"optics": optics, "dwell_time": 1e-3, "descriptors": "weights.pt", "md": {"sample": "MoS2 flake 3"}}
    requests = {
        "adaptive_map": {
            "args": ["microscope", FIELD, 0.01],
            "kwargs": {"phases": ["MoS2"], "max_total_dose": 1e9, "energies": "tcp://10.0.0.1:8786", **surveyed},
        },
        "raster_map": {"args": ["microscope", FIELD, 3, 4], "kwargs": surveyed},
        "sobol_map": {"args": ["microscope", FIELD, 16], "kwargs": {"seed": 3, **surveyed}},
        "calibrate_rotation": {"args": ["microscope", FIELD], "kwargs": {"nx": 32, "centre": [64.0, 64.0]}},
        "raster_map without ny": {"args": ["microscope", FIELD, 3], "kwargs": {}},
        "raster_map of a word": {"args": ["microscope", FIELD, "three", 4], "kwargs": {}},
    }
    found = verdict(requests)
    assert [found[name] for name in ("adaptive_map", "raster_map", "sobol_map", "calibrate_rotation")] == [""] * 4
    assert "ny" in found["raster_map without ny"]
    assert "nx" in found["raster_map of a word"]
