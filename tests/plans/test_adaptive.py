"""What the closed loop refuses, it refuses before it starts anything."""

from contextlib import nullcontext
from types import SimpleNamespace

import psutil
import pytest

from bluesky_edgestem.analysis.optics import Optics
from bluesky_edgestem.energetics.method import DRAFT, STANDARD
from bluesky_edgestem.geometry import FieldOfView, ScanGrid
from bluesky_edgestem.plans.adaptive import adaptive_map
from bluesky_edgestem.plans.beam import describe_beam

FIELD = FieldOfView.centred(100.0)
MICROSCOPE = SimpleNamespace(
    wait_for_connection=lambda timeout: None,
    check_value=lambda positions: None,
    optics=Optics(),
    watched=nullcontext,
)
OPTIMIZER = SimpleNamespace(map_grid=ScanGrid(FIELD, 3, 2), target_sd=0.01)


def network(refusal=""):
    def check_optics(optics):
        if refusal:
            raise ValueError(refusal)

    return SimpleNamespace(check_optics=check_optics)


def children():
    return {child.pid for child in psutil.Process().children(recursive=True)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"md": {"optics": 1}}, "metadata may not be called optics"),
        ({"descriptors": network("trained for another camera")}, "trained for another camera"),
        ({"resume_from": [("start", {"uid": "c0ffee00"})]}, "run c0ffee00 cannot be resumed here"),
        (
            {
                "resume_from": [
                    ("start", {"uid": "c0ffee00", **describe_beam(FIELD, Optics()), "energy_method": DRAFT.name})
                ]
            },
            f"run c0ffee00 cannot be resumed here: its energy_method was {DRAFT.name}, now it is {STANDARD.name}",
        ),
        ({"phases": "MoS2"}, r"phases is the text 'MoS2'; give a list of formulas, for example \['MoS2'\]"),
        ({"phases": []}, "phases is empty; name those that may occur, of MoS2, WS2"),
        ({"phases": ["WS2", "MoS2", "WS2"]}, "WS2 is in it twice; name each once"),
    ],
    ids=["metadata", "optics", "earlier run", "other energies", "a text", "no phase", "a phase twice"],
)
def test_a_refused_loop_leaves_no_worker(settings, message):
    before = children()
    plan = adaptive_map(MICROSCOPE, FIELD, 0.01, **{"descriptors": network(), "optimizer": OPTIMIZER, **settings})
    with pytest.raises(ValueError, match=message):
        next(plan)
    assert children() <= before


def test_a_run_from_before_methods_were_told_is_taken_for_one_by_the_standard():
    start = {"uid": "c0ffee00", **describe_beam(FIELD, Optics())}
    plan = adaptive_map(
        MICROSCOPE,
        FIELD,
        0.01,
        descriptors=network(),
        optimizer=OPTIMIZER,
        resume_from=[("start", start)],
        md={"uid": 1},
    )
    # It comes as far as what is refused next.
    with pytest.raises(ValueError, match="metadata may not be called uid"):
        next(plan)


def test_workers_end_with_the_plan_also_when_it_is_halted(monkeypatch):
    began, ended = [], []

    class Workers:
        def __init__(self, scheduler, method):
            began.append(scheduler)

        def __enter__(self):
            return self

        def __exit__(self, *exc_info):
            ended.append(began[-1])

    monkeypatch.setattr("bluesky_edgestem.energetics.cluster.DFTCluster", Workers)
    plan = adaptive_map(MICROSCOPE, FIELD, 0.01, descriptors=network(), optimizer=OPTIMIZER, energies="tcp://here:1")
    next(plan)
    assert (began, ended) == (["tcp://here:1"], [])
    plan.close()  # a halt: no clean-up messages are sent
    assert ended == ["tcp://here:1"]
