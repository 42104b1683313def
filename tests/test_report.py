"""The report says what the run says, and stands alone."""

import base64
import re
from dataclasses import replace

import numpy as np
import pytest

from bluesky_edgestem.report import RunRecord, Score, described, figures, overhead, write_report

N = 12


@pytest.fixture
def record():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-50, 50, (2, N))
    small = {k: np.full(N, 1e-3) for k in ("exx_sd", "eyy_sd", "exy_sd", "rotation_sd")}
    energy = rng.uniform(0, 0.05, N)
    energy[3] = np.nan
    state = np.array(["converged"] * N)
    state[3] = "failed"
    return RunRecord(
        start={
            "uid": "c0ffee00-0000",
            "time": 1000.0,
            "sample": "a <b> & c",
            "field_of_view": {"x0": -50.0, "y0": -50.0, "width": 100.0, "height": 100.0},
            "optics": {"energy_keV": 80.0, "semiangle_mrad": 2.0, "pixel_mrad": 0.5, "n_pixels": 128},
        },
        stop={"time": 1100.0, "exit_status": "success"},
        descriptors={
            "x": x, "y": y, "exx": np.zeros(N), "eyy": np.zeros(N), "exy": np.zeros(N), "rotation": np.zeros(N),
            "phase": np.array(["MoS2"] * N), **small,
        },
        energetics={
            "energy": energy, "state": state, "cached": np.arange(N) % 2, "wall_s": np.arange(N) * 1.0,
            "method": np.full(N, "PBE-350eV"),
        },
        optimization={
            "time": np.array([1030.0, 1070.0, 1100.0]),
            "positions": np.array([4, 8, 12]),
            "max_sd": np.array([0.02, 0.01, 0.004]),
            "mean_sd": np.array([0.01, 0.005, 0.002]),
            "target_sd": np.full(3, 0.005),
            "acquire_s": np.array([5.0, 5.0, 4.0]),
            "energetics_s": np.array([30.0, 34.0, 25.0]),
            "recommend_s": np.array([1.0, 0.75, 0.9]),
            "stop": np.array(["", "", "target reached"]),
            "energy_mean": rng.uniform(0, 0.05, (3, 64, 64)),
            "energy_sd": np.full((3, 64, 64), 0.004),
        },
        frames=rng.poisson(0.1, (N, 1, 128, 128)).astype(np.uint16),
    )  # fmt: skip


def test_a_run_that_was_ended_during_a_batch_has_its_report(record, tmp_path):
    energetics = {name: column[:8] for name, column in record.energetics.items()}
    optimization = {name: column[:2] for name, column in record.optimization.items()}
    stop = {"time": 1090.0, "exit_status": "abort"}
    early = replace(record, energetics=energetics, optimization=optimization, stop=stop)
    write_report(early, tmp_path / "report.html", "how to query it")
    assert "ended: abort" in (tmp_path / "report.html").read_text()


def test_figures_are_the_numbers_of_the_run(record):
    found = figures(record)
    assert found["ended because"] == ("target reached", "")
    assert found["probe positions"] == (12, "")
    # 0.61 λ/α is 1.2736 nm: 100 nm take 157.04 steps of half of it, so 159 positions a side.
    assert found["positions of the Nyquist raster"] == (159**2, "")
    assert found["share of the Nyquist raster"][0] == pytest.approx(100 * 12 / 159**2)
    assert found["DFT energies"] == (11, "")
    assert found["their method"] == ("PBE-350eV", "")
    assert found["positions marked failed"] == (1, "")
    assert found["duration"] == (100.0, "s")
    # Computed, not cached: 0, 2, 4, 6, 8, 10 s.
    assert found["DFT time a calculation, median"] == (5.0, "s")
    assert "map RMSE against the true structure" not in found


def test_counts_are_shown_as_counts(record):
    shown = described(figures(record))
    assert shown["positions of the Nyquist raster"] == "25281"
    assert shown["ended because"] == "target reached"
    assert shown["share of the Nyquist raster"] == "0.04747 %"


def test_overhead_is_what_no_part_accounts_for(record):
    # 40 s less 39.75 s, and 30 s less 29.9 s; with the choice of positions 1 s and 1 s.
    assert overhead(record) == pytest.approx([0.25, 0.1], abs=1e-9)
    assert overhead(record, ("acquire_s", "energetics_s")) == pytest.approx([1.0, 1.0], abs=1e-9)


def test_the_page_stands_alone_and_escapes_what_users_typed(record, tmp_path):
    score = Score(rmse=0.004, worst=0.02, coverage=0.95, truth=np.zeros((64, 64)))
    path = write_report(record, tmp_path / "report.html", "catalog['c0ffee00']", score)
    page = path.read_text()
    assert "a &lt;b&gt; &amp; c" in page
    assert "0.8" in re.search(r"map RMSE over target sd</td><td>([^<]*)", page)[1]
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 4
    assert all(base64.b64decode(p).startswith(b"\x89PNG") for p in pictures)
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
