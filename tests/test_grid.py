"""A study as data: its points, its overrides, its limits."""

import pytest

from esort.grid import OURS, StudySpec

AXES = {"labels": {1: ["label_budget=per_unit", "labels=1"], "all": "labels=1.0"}, "drift": ["none", "slow"]}


def make_spec(**changes):
    return StudySpec(**({"name": "small", "axes": AXES, "x": "labels", "by": "drift"} | changes))


def test_points_are_all_combinations_with_all_seeds():
    points = make_spec(seeds=[0, 3]).points()
    assert len(points) == 8
    assert len({point.label for point in points}) == 8
    first = points[0]
    assert first.values == {"labels": "1", "drift": "none"}
    assert first.overrides == ("label_budget=per_unit", "labels=1", "drift=none", "seed=0")
    assert first.sorter == OURS
    assert [point.seed for point in points] == [0] * 4 + [3] * 4
    assert points[2].overrides == ("labels=1.0", "drift=none", "seed=0")


def test_names_are_safe_for_folders():
    spec = make_spec(axes={"condition": {"noise 20 uV": ["noise=high"], "a/b": []}}, x="condition", by=None)
    assert [point.label for point in spec.points()[:2]] == [
        "condition-noise-20-uV_seed-0",
        "condition-a-b_seed-0",
    ]


def test_a_part_of_the_grid():
    spec = make_spec(only={"labels": [1], "drift": "slow"})
    assert [point.values for point in spec.points()] == [{"labels": "1", "drift": "slow"}] * 3
    assert spec.chosen_values() == {"labels": ["1"], "drift": ["slow"]}


def test_what_is_varied_is_known():
    assert make_spec().overridden() == {"label_budget", "labels", "drift", "seed"}
    spec = make_spec(axes={"kind": {"a": ["+noise.kind=x"], "b": []}}, x="kind", by=None)
    assert spec.overridden() == {"noise.kind", "seed"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a b"}, "study.name must be of letters, digits, '_' and '-', got 'a b'"),
        ({"axes": {}}, "study.axes must have at least 1 axis, got none"),
        ({"axes": {"labels": []}}, "must have values for each axis.*got 'labels'"),
        ({"axes": {"seed": [1]}}, "none called seed or sorter, got 'seed'"),
        ({"seeds": []}, r"study.seeds must be different whole numbers of at least 0, got \[\]"),
        ({"seeds": [0, 0]}, r"got \[0, 0\]"),
        ({"seeds": [0.5]}, r"got \[0.5\]"),
        ({"figure": "pie"}, "study.figure must be one of curve, matrix, bars, got 'pie'"),
        ({"x": "depth"}, "study.x must be one of labels, drift, sorter, got 'depth'"),
        ({"by": "depth"}, "study.by must be one of labels, drift, sorter, got 'depth'"),
        ({"baseline": "fast"}, "study.baseline must be one of none, slow, got 'fast'"),
        (
            {"by": None, "baseline": "none"},
            "study.baseline is a value of the axis study.by, got 'none' alone",
        ),
        ({"by": "sorter", "baseline": "lupin"}, "study.baseline must be one of esort, got 'lupin'"),
        ({"peers": ["klusta"]}, "study.peers must be one of lupin, .*, got 'klusta'"),
        ({"only": {"depth": [1]}}, "study.only must be one of labels, drift, got 'depth'"),
        ({"only": {"labels": [7]}}, "study.only.labels must be one of 1, all, got '7'"),
    ],
)
def test_bad_studies(changes, message):
    with pytest.raises(ValueError, match=message):
        make_spec(**changes)
