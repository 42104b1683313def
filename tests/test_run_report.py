"""The report of any run in the catalog, or why there is none."""

import pytest

from bluesky_edgestem.run_report import NothingToReport, report


class Run(dict):
    """A run without streams, as a Tiled client shows it."""

    metadata = {"start": {"uid": "c0ffee00-0000", "plan_name": "raster_map"}, "stop": None}  # noqa: RUF012


def test_a_run_without_a_map_is_named_with_its_plan(tmp_path):
    with pytest.raises(NothingToReport, match=r"run c0ffee00 \(raster_map\) has no map of the energy"):
        report({"c0ffee": Run()}, "c0ffee", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_not_there_is_one_message(tmp_path):
    with pytest.raises(ValueError, match="no run 'zzz' in this catalog; `edgestem catalog search` lists"):
        report({"c0ffee": Run()}, "zzz", tmp_path)
