"""A search term becomes the right Tiled query, or one clear error."""

import pytest
from tiled.queries import Comparison, Contains, Eq, FullText, NotEq

from bluesky_edgestem.catalog.errors import SearchError
from bluesky_edgestem.catalog.search import FoundRun, find, search, table


class Recorder:
    """A catalog that keeps what it is asked."""

    def __init__(self) -> None:
        self.queries: list[object] = []
        self.sorting: tuple = ()

    def search(self, query: object) -> "Recorder":
        self.queries.append(query)
        return self

    def sort(self, *sorting: tuple[str, int]) -> "Recorder":
        self.sorting = sorting
        return self


@pytest.mark.parametrize(
    ("term", "queries"),
    [
        ("sample=MoS2", [Eq("start.sample", "MoS2")]),
        ("sample == MoS2", [Eq("start.sample", "MoS2")]),
        ("sample!=MoS2", [NotEq("start.sample", "MoS2")]),
        ("target_sd<0.02", [Comparison("lt", "start.target_sd", 0.02)]),
        ("beam.keV>=200", [Comparison("ge", "start.beam.keV", 200), Comparison("le", "start.beam.keV", 1.7e308)]),
        ("name<m", [Comparison("lt", "start.name", "m"), Comparison("ge", "start.name", "")]),
        ("dose=1e5", [Eq("start.dose", 100000.0)]),
        ('n="5"', [Eq("start.n", "5")]),
        ("n='5 a'", [Eq("start.n", "5 a")]),
        ("flag=true", [Eq("start.flag", True)]),
        ("stop.exit_status=fail", [Eq("stop.exit_status", "fail")]),
        ("sample~MoS2", [Contains("start.sample", "MoS2")]),
        ('note ~ "5 nm"', [Contains("start.note", "5 nm")]),
        ("dose~1", [Contains("start.dose", "1")]),
        ("beam shift = 3", [Eq("start.beam shift", 3)]),
        ("stage.beam shift>=3.5", [
            Comparison("ge", "start.stage.beam shift", 3.5), Comparison("le", "start.stage.beam shift", 1.7e308),
        ]),
        ("note=a=b", [Eq("start.note", "a=b")]),
        ("grain-boundary", [FullText('"grain-boundary"')]),
        ('left "flake" OR', [FullText('"left" "flake" "OR"')]),
    ],
)  # fmt: skip
def test_terms(term: str, queries: list[object]) -> None:
    recorder = Recorder()
    find(recorder, term)
    assert recorder.queries == queries
    assert [type(getattr(query, "value", "")) for query in recorder.queries] == [
        type(getattr(query, "value", "")) for query in queries
    ]
    assert recorder.sorting == (("start.time", -1),)


@pytest.mark.parametrize(
    ("term", "what"),
    [
        ("=3", "there is no key before the comparison"),
        ("<", "there is no key before the comparison"),
        (" =3", "there is no key before the comparison"),
        ("a..b=3", r"'a\.\.b' is not a key"),
        ("a=", "there is no value after the comparison"),
        ("a~", "there is no value after the comparison"),
        ('a="b', "a quote is not closed"),
        ("a>true", "true and false have no order; use = or != in place of >"),
        ("a<nan", "nan is not a number that can be compared"),
        ("--", "there is no word to look for"),
        ("", "there is no word to look for"),
    ],
)
def test_a_bad_term_is_one_clear_error(term: str, what: str) -> None:
    with pytest.raises(SearchError, match=f"cannot be understood: {what}.*Give key=value"):
        search(Recorder(), term)


def test_table() -> None:
    lines = table([FoundRun("0123456789", 0.0, "adaptive_map", "MoS2", 24, "success")]).splitlines()
    assert lines[0].split() == ["uid", "started", "plan", "sample", "positions", "exit", "status"]
    assert lines[1].split()[0] == "01234567"
    assert lines[1].split()[3:] == ["adaptive_map", "MoS2", "24", "success"]
