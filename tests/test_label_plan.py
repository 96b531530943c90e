"""Who needs how many more labels."""

import json
import math

import pytest

from esort.label_plan import LabelPlanner, expected_accuracy, needs_of_curves

UNIT = {"rate_hz": 5.0, "recall": 0.8, "false_hz": 1.0}


def test_expected_accuracy_is_hits_over_all():
    assert expected_accuracy(UNIT) == pytest.approx(4 / 6)
    assert expected_accuracy({"rate_hz": 0.0, "recall": 1.0, "false_hz": 0.0}) == 0


def test_needs_follow_the_expected_error():
    planner = LabelPlanner()
    enough = planner.need("a", labels=5, accuracy=0.93)
    assert (enough.advice, enough.needed, enough.more) == ("enough", 5, 0)
    close, far = (planner.need("a", labels=5, accuracy=value) for value in (0.88, 0.6))
    assert close.advice == far.advice == "more labels"
    assert 0 < close.more < far.more
    # the error falls with labels to the power of -0.7
    assert far.needed == math.ceil(5 * 4 ** (1 / 0.7))


def test_few_labels_are_not_believed():
    planner = LabelPlanner()
    one = planner.need("a", labels=1, accuracy=1.0)
    assert (one.advice, one.accuracy) == ("more labels", pytest.approx(0.7))
    assert one.needed == 5
    assert planner.need("a", labels=5, accuracy=1.0).advice == "enough"


def test_what_is_expected_with_fewer_and_more():
    planner = LabelPlanner()
    need = planner.need("a", labels=7, accuracy=0.6)
    expected = dict(planner.expected(need))
    assert expected[7] == pytest.approx(0.6)
    assert list(expected) == sorted(expected)
    assert list(expected.values()) == sorted(expected.values())
    assert expected[100] == pytest.approx(1 - 0.4 * (100 / 7) ** -0.7)
    assert expected[1] == 0  # never less than nothing
    # as many as it is said to need reach what is aimed at
    assert planner.target <= 1 - 0.4 * (need.needed / 7) ** -0.7 < planner.target + 0.02


def test_units_that_do_not_fire_enough_or_cannot_be_sorted():
    planner = LabelPlanner()
    assert planner.need("a", labels=5, accuracy=0.6, available=20).advice == "more time"
    hopeless = planner.need("a", labels=500, accuracy=0.2)
    assert (hopeless.advice, hopeless.needed, hopeless.more) == ("out of reach", None, None)


def test_of_a_calibration():
    calibration = {
        "units": [{"unit_id": 3, **UNIT}, {"unit_id": "b", **UNIT, "false_hz": 0.0, "recall": 1.0}]
    }
    needs = LabelPlanner().of_calibration(calibration, {3: 5, "left out": 2, "b": 7}, labelled_s=2.0)
    assert [(need.unit_id, need.labels, need.advice) for need in needs] == [
        (3, 5, "more time"),
        ("left out", 2, "more labels"),
        ("b", 7, "enough"),
    ]
    assert needs[1].accuracy == 0


def test_a_study_s_curve_is_used(tmp_path):
    path = tmp_path / "curve.json"
    path.write_text(json.dumps({"transfer": {"floor": 0.0, "scale": 0.5, "exponent": 2.0}}))
    need = LabelPlanner(curve=str(path)).need("a", labels=5, accuracy=0.6)
    assert need.needed == 10


def test_measured_units_have_curves_of_their_own():
    measured = {
        "easy": [(k, 1 - 0.2 / k) for k in (1, 5, 20)],
        "slow": [(k, 1 - 0.9 * k**-0.5) for k in (1, 5, 20)],
        "hopeless": [(k, 0.5) for k in (1, 5, 20)],
    }
    easy, slow, hopeless = needs_of_curves(measured, target=0.9, labels=10)
    assert easy["advice"] == "enough"
    assert slow["needed"] == pytest.approx(81, rel=0.15)
    assert slow["more"] == slow["needed"] - 10
    assert hopeless["advice"] == "out of reach"
    assert set(easy) >= {"unit_id", "floor", "scale", "exponent"}


@pytest.mark.parametrize("target", [0, 1, 1.2, True, "high"])
def test_bad_target(target):
    with pytest.raises(ValueError, match=r"label_plan.target must be an accuracy in \(0, 1\), got"):
        LabelPlanner(target=target)


def test_bad_curve(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"label_plan.curve: expected .* found no file at /nowhere"):
        LabelPlanner(curve="/nowhere")
    for content in ("{}", "no json", '{"transfer": {"floor": 2, "scale": 0, "exponent": 1}}'):
        (tmp_path / "curve.json").write_text(content)
        with pytest.raises(ValueError, match="is no curve.json of a label_efficiency study"):
            LabelPlanner(curve=str(tmp_path / "curve.json"))
