"""Means, intervals, gains and ratios of a study; and its figure."""

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from scipy import stats

from esort.grid import StudySpec
from esort.study_figure import plot_study
from esort.study_table import fitted_curves, interval, overall_labels_ratio, results_table, summarise

SPEC = StudySpec(
    name="small",
    axes={"labels": [1, 2, 4, 8], "training": ["scratch", "transfer"]},
    figure="curve",
    x="labels",
    by="training",
    baseline="scratch",
    peers=["lupin"],
)


def make_row(**changes):
    return {
        "sorter": "esort",
        "seed": 0,
        "status": "done",
        "pooled_accuracy": 0.9,
        "mean_accuracy": 0.8,
        "labels_per_unit": None,
        "seconds": 2.0,
    } | changes


def make_rows():
    """Transfer needs half the labels of scratch; seeds differ by an offset."""
    rows = [
        make_row(
            labels=str(k),
            training=training,
            seed=seed,
            labels_per_unit=float(k),
            pooled_accuracy=0.5 + 0.1 * math.log2(k) + (0.1 if training == "transfer" else 0) + 0.01 * seed,
        )
        for seed in (0, 1, 2)
        for k in (1, 2, 4, 8)
        for training in ("scratch", "transfer")
    ]
    rows += [make_row(sorter="lupin", labels="", training="", seed=seed) for seed in (0, 1, 2)]
    return rows


def test_interval_is_student_s():
    values = [0.9, 0.92, 0.97]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval(values) == pytest.approx((np.mean(values), *expected))
    assert interval([*values, math.nan]) == interval(values)
    assert interval([0.7])[0] == 0.7
    assert np.isnan(interval([0.7])[1:]).all()
    assert np.isnan(interval([])).all()


def test_gain_is_paired_by_seed_and_ratio_is_at_equal_accuracy():
    summary = summarise(results_table(make_rows()), SPEC)
    assert len(summary) == 9
    transfer = summary[summary["training"] == "transfer"]
    np.testing.assert_allclose(transfer[["gain", "gain_low", "gain_high"]], 0.1, atol=1e-9)
    assert list(transfer["labels_ratio_bound"]) == ["at most", "", "", ""]
    np.testing.assert_allclose(transfer["labels_ratio"], [1, 0.5, 0.5, 0.5], rtol=1e-6)
    assert overall_labels_ratio(summary) == pytest.approx(0.5)
    rest = summary[summary["training"] != "transfer"]
    assert rest[["gain", "labels_ratio"]].isna().all(axis=None)


def test_no_ratio_where_the_baseline_makes_no_progress():
    rows = [row | {"pooled_accuracy": min(row["pooled_accuracy"], 0.6)} for row in make_rows()]
    summary = summarise(results_table(rows), SPEC)
    transfer = summary[summary["training"] == "transfer"]
    assert list(transfer["labels_ratio_bound"]) == ["at most", "", "plateau", "plateau"]
    assert transfer["labels_ratio"].isna().tolist() == [False, False, True, True]


def test_a_failed_run_counts_as_nothing_found_and_a_skipped_one_not_at_all():
    rows = make_rows()
    rows[0] |= {"status": "failed", "pooled_accuracy": 0.0, "mean_accuracy": 0.0}
    rows[-1] |= {"status": "skipped", "pooled_accuracy": None, "mean_accuracy": None}
    summary = summarise(results_table(rows), SPEC).set_index(["sorter", "labels", "training"])
    first = summary.loc["esort", "1", "scratch"]
    assert (first["n"], first["failed"]) == (3, 1)
    assert first["pooled_accuracy"] == pytest.approx((0 + 0.51 + 0.52) / 3)
    lupin = summary.loc["lupin", "", ""]
    assert (lupin["n"], lupin["failed"], lupin["pooled_accuracy"]) == (2, 0, 0.9)


def test_sorters_are_compared_on_the_same_condition():
    spec = StudySpec(
        name="peers",
        axes={"noise": ["low", "high"]},
        x="noise",
        by="sorter",
        baseline="lupin",
        peers=["lupin"],
    )
    rows = [
        make_row(sorter=sorter, noise=noise, seed=seed, pooled_accuracy=value + 0.01 * seed)
        for sorter, noise, value in (
            ("esort", "low", 0.95), ("esort", "high", 0.9), ("lupin", "low", 0.9), ("lupin", "high", 0.6),
        )
        for seed in (0, 1)
    ]  # fmt: skip
    summary = summarise(results_table(rows), spec).set_index(["sorter", "noise"])
    assert summary.loc[("esort", "low"), "gain"] == pytest.approx(0.05)
    assert summary.loc[("esort", "high"), "gain"] == pytest.approx(0.3)


def test_curves_are_fitted_for_each_way_of_learning():
    curves = fitted_curves(results_table(make_rows()), SPEC)
    assert set(curves) == {"scratch", "transfer"}
    assert curves["transfer"].error(4) < curves["scratch"].error(4)


@pytest.mark.parametrize("figure", ["curve", "matrix", "bars"])
def test_figures(tmp_path, figure):
    spec = StudySpec(name="small", axes=SPEC.axes, figure=figure, x="labels", by="training", peers=["lupin"])
    table = results_table(make_rows())
    path = tmp_path / "figure.png"
    plot_study(summarise(table, spec), spec, path, title="small", curves=fitted_curves(table, SPEC))
    pixels = imread(path)[..., :3]
    assert pixels.shape[1] > 900
    assert pixels.std() > 0.05


def test_a_figure_of_one_run(tmp_path):
    for figure in ("curve", "matrix", "bars"):
        spec = StudySpec(name="one", axes={"labels": [5]}, figure=figure, x="labels", seeds=[0])
        table = results_table([make_row(labels="5", labels_per_unit=5.0)])
        plot_study(summarise(table, spec), spec, tmp_path / f"{figure}.png", title="one")
        assert (tmp_path / f"{figure}.png").is_file()


def test_numbers_stay_numbers_where_some_runs_have_none():
    table = results_table([make_row(labels_per_unit=None), make_row(labels_per_unit=3.0)])
    assert pd.api.types.is_float_dtype(table["labels_per_unit"])
