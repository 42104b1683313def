"""`edgestem run` as a user meets it: real IOCs, real DFT, a real catalog; and Ctrl-C."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import uuid

import psutil
import pytest

from bluesky_edgestem.analysis.networks import SHIPPED
from bluesky_edgestem.energetics.method import DRAFT

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

EXPERIMENT = """
sample = "MoS2-WS2 test"
[microscope]
prefix = "{prefix}"
specimen_seed = 3
[stop]
max_positions = {positions}
[loop]
initial = {positions}
[energetics]
cache = "{folder}/cache"
method = "draft"
[catalog]
folder = "{folder}/data"
[metadata]
operator = "a test"
"""


def edgestem(*words):
    return [sys.executable, "-m", "bluesky_edgestem", *words]


@pytest.fixture
def experiment(tmp_path):
    """Writes an experiment file of its own prefix and folders."""

    def write(positions):
        path = tmp_path / "experiment.toml"
        prefix = f"SIM{uuid.uuid4().hex[:6]}:"
        path.write_text(EXPERIMENT.format(prefix=prefix, positions=positions, folder=tmp_path))
        return path

    return write


def test_a_run_leaves_a_report_can_be_found_again_and_resumed(experiment, tmp_path):
    path = experiment(4)
    done = subprocess.run(edgestem("run", str(path)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the budget of 4 positions is spent" in done.stdout
    assert re.search(r"DFT energies: 4\b", done.stdout)
    (report,) = (tmp_path / "data" / "reports").glob("*.html")
    assert str(report) in done.stdout
    page = report.read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "map RMSE against the true structure" in page
    assert DRAFT.name in page
    # The line that is printed works as it stands, in this shell.
    line = re.search(r"^find it again: (.*)$", done.stdout, re.MULTILINE)
    again = subprocess.run(line[1], shell=True, capture_output=True, text=True, timeout=200)
    assert report.stem[:8] in again.stdout, again.stderr
    # The journal has gone: everything is in the catalog.
    assert list((tmp_path / "data" / "journals").iterdir()) == []
    found = subprocess.run(
        edgestem(
            "catalog",
            "search",
            "--folder",
            str(tmp_path / "data"),
            "operator=a test",
            "target_sd<0.02",
            "plan_name=adaptive_map",
        ),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert found.returncode == 0, found.stderr
    assert report.stem[:8] in found.stdout
    report.unlink()
    again = subprocess.run(
        edgestem("report", "--folder", str(tmp_path / "data"), report.stem[:8]),
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert report.read_text() == page
    none = subprocess.run(
        edgestem("catalog", "search", "--folder", str(tmp_path / "data"), "target_sd>1"),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert report.stem[:8] not in none.stdout

    resumed = subprocess.run(
        edgestem("resume", str(path), report.stem[:8]), capture_output=True, text=True, timeout=600
    )
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "batch 1: 8 positions, 8 energies" in resumed.stdout
    unknown = subprocess.run(edgestem("resume", str(path), "zzz"), capture_output=True, text=True, timeout=200)
    assert unknown.returncode == 1
    assert "no run 'zzz' in this catalog" in unknown.stderr


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_run_that_is_told_to_end_ends_with_everything_that_it_started(experiment, tmp_path, told):
    process = subprocess.Popen(
        edgestem("run", str(experiment(40))),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said = ""
    while "has begun" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    time.sleep(6)  # patterns are recorded, or energies computed
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 4  # the catalog, the microscope and two workers at least
    if told == signal.SIGINT:
        os.killpg(process.pid, told)  # as a terminal does: to all of them
    else:
        process.send_signal(told)
    rest, _ = process.communicate(timeout=200)
    assert process.returncode == 130, said + rest
    assert "blanking the beam and ending the run" in rest
    assert re.search(r"run ended \(abort\) after \d+ s", rest), rest
    assert "Traceback" not in rest
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    found = subprocess.run(
        edgestem("catalog", "search", "--folder", str(tmp_path / "data"), "operator=a test"),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert "abort" in found.stdout


def serves_the_catalog(process):
    with contextlib.suppress(psutil.Error):  # it has just ended
        return "bluesky_edgestem.catalog.serving" in process.cmdline()


def test_ctrl_c_while_it_starts_is_answered_and_leaves_nothing(experiment):
    process = subprocess.Popen(
        edgestem("run", str(experiment(4))),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    started: list[psutil.Process] = []
    while not any(serves_the_catalog(child) for child in started):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
        started = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 130, said
    assert said.splitlines()[-2:] == ["ending what was started ...", "interrupted"]
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[stop]\ntarget_sd_meV = 3\n", "unknown key 'stop.target_sd_meV'; did you mean 'target_sd_eV'?"),
        ('phases = ["MoS3"]\n', "unknown material 'MoS3'; known are MoS2, WS2"),
        ('phases = ["WS2", "WS2"]\n', "WS2 is in it twice; name each once"),
        ('[catalog]\nfolder = "/proc/nowhere"\n', "cannot make the folder /proc/nowhere"),
        ('[energetics]\ncache = "/proc/nowhere"\n[catalog]\nfolder = "FOLDER"\n', "energy cache /proc/nowhere"),
        ('[network]\nweights = "absent.pt"\n[catalog]\nfolder = "FOLDER"\n', "absent.pt"),
        ('[network]\nweights = "cut.pt"\n[catalog]\nfolder = "FOLDER"\n', "cut.pt: cut short or altered"),
        ('[microscope]\nboard = "absent"\n[catalog]\nfolder = "FOLDER"\n', "absent/student.weights: No such file"),
    ],
)
def test_a_mistake_is_one_message_and_nothing_is_started(tmp_path, text, message):
    path = tmp_path / "experiment.toml"
    path.write_text(text.replace("FOLDER", str(tmp_path / "data")))
    (tmp_path / "cut.pt").write_bytes(SHIPPED.read_bytes()[:-100])
    done = subprocess.run(edgestem("run", str(path)), capture_output=True, text=True, timeout=200, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("data/frames/*"))
    assert not list(tmp_path.glob("data/catalog/*")), "no server was started"
