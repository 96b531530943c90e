"""The report: what it says is right, it is whole without a network, and a browser can click through it."""

import json
import logging
import os
import re
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import spikeinterface
from entries import run
from probeinterface import generate_multi_columns_probe
from spikeinterface.core import NumpyRecording, NumpySorting, generate_ground_truth_recording
from spikeinterface.generation import generate_noise

from esort.checkpoint import Card, LabelSource, save_checkpoint
from esort.evaluation import agreement, score
from esort.files import write_json
from esort.label_plan import COLUMNS, LabelPlanner
from esort.motion import FollowedMotion
from esort.page import REPORT, try_page, write_page
from esort.page.closeup import look_closely
from esort.page.labels import describe_labels
from esort.page.motion import describe_motion
from esort.page.trains import describe_trains
from esort.subject import Subject
from esort.tracker import Tracker

pytestmark = pytest.mark.filterwarnings("ignore:The extractor is not serializable")  # in memory

RATE = 20_000.0
SECONDS = 12.0
START, STOP = 40_000, 240_000
HOSTILE = "</script><b id='evil'>&amp;"
SILENT = "never"


def card_for(recording):
    return Card(
        network="dense",
        network_parameters={},
        sampling_frequency=RATE,
        contact_positions_um=recording.get_channel_locations(),
        channel_ids=list(range(recording.get_num_channels())),
        unit_ids=["a"],
        thresholds=[0.5],
        preprocessing={
            "freq_min_hz": 300.0,
            "freq_max_hz": 6000.0,
            "common_reference": "none",
            "filter_order": 5,
        },
        window_ms=2.0,
        window_samples=40,
        peak_offset_samples=15,
        labels=LabelSource(recording_fingerprint="f", start_sample=0, stop_sample=START, num_labels=60),
    )


def leave_run(
    folder, subject, sorting, *, probability=True, start=START, stop=STOP, scores=True, motion=None
):
    """What `sort_subject` leaves in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder / "model.safetensors", {"w": np.zeros(1, np.float32)}, card_for(subject.recording))
    sorting.save(folder=folder / "sorting")
    num_spikes = len(sorting.to_spike_vector())
    if probability:
        values = np.random.default_rng(0).uniform(0.5, 1, num_spikes).astype(np.float32)
        np.save(folder / "sorting" / "probability.npy", values)
    if motion is not None:
        motion.save(folder / "sorting" / "motion")
    content = {
        "recording": subject.source,
        "checkpoint": str(folder / "model.safetensors"),
        "checkpoint_sha256": "0" * 64,
        "start_sample": start,
        "stop_sample": stop,
        "sampling_frequency": RATE,
        "num_channels": subject.recording.get_num_channels(),
        "num_units": sorting.get_num_units(),
        "num_spikes": num_spikes,
        "motion_um": None if motion is None else motion.range_um,
        "seconds": {"read_filter": 1.0, "network": 2.0, "postprocess": 0.5, "total": 3.0},
        "real_time_factor": 3.3,
        "peak_rss_bytes": 10**9,
        "cores": 2,
        "platform": "test",
        "versions": {"esort": "0"},
    }
    write_json(folder / "run.json", content)
    if scores and subject.ground_truth is not None:
        score(subject.ground_truth, sorting, start_sample=start, stop_sample=stop).save(
            folder / "scores.json"
        )
    return folder


def subject_of(recording, ground_truth=None, **more):
    return Subject(
        recording=recording, ground_truth=ground_truth, source="/data/session 1", fingerprint="f", **more
    )


@pytest.fixture(scope="module")
def subject():
    recording, truth = generate_ground_truth_recording(
        durations=[SECONDS],
        sampling_frequency=RATE,
        num_channels=16,
        num_units=5,
        generate_sorting_kwargs={"firing_rates": 12.0, "refractory_period_ms": 3.0},
        seed=3,
    )
    return subject_of(recording, truth)


@pytest.fixture(scope="module")
def found(subject):
    """The truth of the stretch under other names; unit 1 lacks every third spike, unit 4 was never found."""
    trains = {}
    for index, name in enumerate(["a", HOSTILE, "c d", "7"]):
        train = subject.ground_truth.get_unit_spike_train(subject.ground_truth.unit_ids[index])
        train = train[(train >= START) & (train < STOP)]
        trains[name] = np.delete(train, slice(None, None, 3)) if index == 1 else train
    trains[SILENT] = np.zeros(0, dtype=np.int64)
    return NumpySorting.from_unit_dict([trains], RATE)


def leave_labels(folder, counts):
    """What training leaves of units with so many labels."""
    planner = LabelPlanner()
    needs = [planner.need(name, labels=count, accuracy=0.8) for name, count in counts.items()]
    with Tracker(folder) as tracker:
        tracker.table("label_plan", COLUMNS, [list(asdict(need).values()) for need in needs])
        rows = [[need.unit_id, *point] for need in needs for point in planner.expected(need)]
        tracker.table("label_curve", ["unit_id", "labels", "accuracy"], rows)


@pytest.fixture(scope="module")
def folder(subject, found, tmp_path_factory):
    times = np.arange(2.25, 12, 0.5)
    shift = np.stack([2 * np.arange(20), np.zeros(20, dtype=np.int64)], axis=1)
    motion = FollowedMotion(times_s=times, depths_um=np.array([100.0, 250.0]), shift_um=shift)
    folder = leave_run(tmp_path_factory.mktemp("run"), subject, found, motion=motion)
    leave_labels(folder, {"a": 5, HOSTILE: 20, "left out": 2})
    write_page(folder, subject)
    return folder


def content_of(folder):
    text = (folder / REPORT).read_text(encoding="utf-8")
    blocks = re.findall(r'<script type="application/json" id="content">(.*?)</script>', text, flags=re.DOTALL)
    assert len(blocks) == 1
    return json.loads(blocks[0])


@pytest.fixture(scope="module")
def content(folder):
    return content_of(folder)


def unit_of(content, unit_id):
    return next(unit for unit in content["units"] if unit["id"] == unit_id)


# ------------------------------------------------------------------------------------- what the page says


def test_counts_rates_and_probabilities_are_of_all_spikes(content, found, folder):
    probability = np.load(folder / "sorting" / "probability.npy")
    spikes = found.to_spike_vector()
    for index, unit in enumerate(content["units"]):
        train = found.get_unit_spike_train(found.unit_ids[index])
        assert unit["id"] == found.unit_ids[index]
        assert unit["num_spikes"] == len(train)
        assert unit["rate_hz"] == pytest.approx(len(train) / 10.0, rel=1e-4)
        assert np.sum(unit["rates"]) * 1.0 == pytest.approx(len(train), abs=0.02)  # ten bins of a second
        if len(train):
            own = probability[spikes["unit_index"] == index]
            assert unit["probability"] == pytest.approx(own.mean(), rel=1e-4)
            first = own[train < START + RATE]
            assert unit["probabilities"][0] == pytest.approx(first.mean(), abs=1e-3)
    assert len(content["bins"]["centre_s"]) == 10
    assert content["bins"]["centre_s"][0] == 2.5


def test_autocorrelograms_equal_a_naive_count(content, found):
    train = found.get_unit_spike_train("a")
    lags_ms = np.array(content["correlogram_ms"])
    lags = (train[None] - train[:, None])[~np.eye(len(train), dtype=bool)] * 1000 / RATE
    for lag_ms, count in zip(lags_ms, unit_of(content, "a")["autocorrelogram"], strict=True):
        # Which of two bins an edge belongs to is SpikeInterface's choice.
        inside = np.abs(lags - lag_ms) < 0.5 - 1e-9
        edge = np.abs(np.abs(lags - lag_ms) - 0.5) < 1e-9
        assert inside.sum() <= count <= inside.sum() + edge.sum()


def test_waveforms_are_those_of_the_traces(content, subject, found):
    unit = unit_of(content, "a")
    filtered = spikeinterface.preprocessing.bandpass_filter(subject.recording, 300.0, 6000.0, dtype="float32")
    traces = filtered.get_traces()
    train = found.get_unit_spike_train("a")
    train = train[(train > START + 200) & (train < STOP - 200)]
    before = int(np.argmin(np.abs(content["waveform_ms"])))
    after = len(content["waveform_ms"]) - before
    mean = np.mean([traces[sample - before : sample + after] for sample in train], axis=0)  # (T, C)
    shown = np.array(unit["waveform"]["values"]).T  # (T, C')
    np.testing.assert_allclose(shown, mean[:, unit["waveform"]["channels"]], atol=1.5)
    assert unit["amplitude"] == pytest.approx(np.abs(mean).max(), rel=0.05)
    contacts = np.array([content["probe"]["x"], content["probe"]["y"]]).T
    largest = contacts[np.abs(mean).max(axis=0).argmax()]
    assert np.linalg.norm([unit["x"], unit["y"]] - largest) < 40


def test_sampled_spikes_are_spikes_of_the_sorting(content, found):
    spikes = content["spikes"]
    trains = [found.get_unit_spike_train(unit_id) / RATE for unit_id in found.unit_ids]
    for time, unit in list(zip(spikes["time"], spikes["unit"], strict=True))[::7]:
        assert np.abs(trains[unit] - time).min() < 1e-4
    assert len(spikes["time"]) > 0.9 * sum(map(len, trains))
    assert {len(values) for values in spikes.values()} == {len(spikes["time"])}


def test_metrics_are_spikeinterfaces_and_undefined_ones_are_missing(content, found):
    names = [name for name, meaning in content["metrics"]["columns"]]
    assert {"num_spikes", "firing_rate", "snr", "rp_violations", "isi_violations_ratio"} <= set(names)
    assert all(meaning for _, meaning in content["metrics"]["columns"])
    rows = [dict(zip(names, row, strict=True)) for row in content["metrics"]["rows"]]
    for index, unit in enumerate(content["units"]):
        assert rows[index]["num_spikes"] == unit["num_spikes"]
        assert rows[index]["snr"] == unit["snr"]
    assert rows[0]["firing_rate"] == pytest.approx(content["units"][0]["rate_hz"])
    silent = rows[found.unit_ids.tolist().index(SILENT)]
    assert {value for name, value in silent.items() if name != "num_spikes"} == {None}


def test_a_unit_without_spikes_is_there(content):
    unit = unit_of(content, SILENT)
    assert (unit["num_spikes"], unit["waveform"], unit["x"], unit["probability"]) == (0, None, None, None)
    cards = {card["name"]: card["value"] for card in content["cards"]}
    assert cards["units that fired, of 5"] == "4"
    assert cards["pooled accuracy"].startswith("0.")


def test_accuracy_against_the_truth(content, subject):
    units = {unit["id"]: unit for unit in content["accuracy"]["units"]}
    names = subject.ground_truth.unit_ids.tolist()
    assert units[names[0]]["value"] == 1.0
    assert units[names[0]]["matched"] == "a"
    assert units[names[0]]["index"] == 0
    assert units[names[0]]["snr"] == content["units"][0]["snr"]
    assert units[names[1]]["value"] == pytest.approx(2 / 3, abs=0.01)
    assert (units[names[4]]["value"], units[names[4]]["matched"], units[names[4]]["snr"]) == (0, None, None)
    confusion = content["confusion"]
    assert confusion["rows"][-1] == "false"
    assert confusion["columns"][-1] == "missed"
    counts = np.array([[int(text.split()[0]) for text in row] for row in confusion["text"]])
    truth = [subject.ground_truth.get_unit_spike_train(name) for name in names]
    inside = [int(((train >= START) & (train < STOP)).sum()) for train in truth]
    missed = {row: counts[place, -1] for place, row in enumerate(confusion["rows"])}
    assert missed[str(names[0])] == 0
    assert missed[str(names[4])] == inside[4]
    assert counts[0, 0] == inside[names.index(type(names[0])(confusion["rows"][0]))]
    assert confusion["share"][0][0] == 1.0


def test_labels_and_what_more_would_bring(content, folder, subject, found, tmp_path):
    labels = content["labels"]
    assert [(unit["id"], unit["labels"]) for unit in labels["units"]] == [
        ("a", 5),
        (HOSTILE, 20),
        ("left out", 2),
    ]
    assert [unit["index"] for unit in labels["units"]] == [0, 1, None]
    one = labels["units"][0]
    assert one["expected"] == 0.8
    assert one["advice"].startswith("more labels, ")
    assert one["curve"]["accuracy"][one["curve"]["labels"].index(5)] == 0.8
    assert one["curve"]["accuracy"] == sorted(one["curve"]["accuracy"])
    # Their names are not those of the true units here.
    assert labels["known"] == "measured accuracy"
    assert [unit["measured"] for unit in labels["units"]] == [None] * 3
    scores = {"units": [], "agreement": {"units": [{"unit_id": "a", "agreement": 0.7}]}}
    agreed = describe_labels(folder, scores, {})
    assert (agreed["known"], agreed["units"][0]["measured"]) == ("agreement with the teacher", 0.7)
    assert describe_labels(folder, None, {})["known"] == ""
    assert describe_labels(tmp_path, None, {}) is None


def test_motion_of_the_tissue(content, subject, found, tmp_path):
    assert content["motion"]["depth_um"] == [100.0, 250.0]
    assert content["motion"]["shift_um"] == [list(range(0, 40, 2)), [0] * 20]
    assert (content["motion"]["time_s"][0], content["motion"]["time_s"][-1]) == (2.25, 11.75)
    assert {card["name"]: card["value"] for card in content["cards"]}["the tissue moved"] == "38 µm"
    still = content_of(leave_page(leave_run(tmp_path / "still", subject, found), subject))
    assert still["motion"] is None
    assert "the tissue moved" not in [card["name"] for card in still["cards"]]
    day = FollowedMotion(
        times_s=np.arange(172_800) / 2, depths_um=np.zeros(1), shift_um=np.zeros((172_800, 1), dtype=np.int64)
    )
    day.save(tmp_path / "sorting" / "motion")
    assert len(describe_motion(tmp_path)["time_s"]) <= 2000


def test_true_signal_to_noise_is_preferred(subject, found, tmp_path):
    known = {unit_id: 5.0 + index for index, unit_id in enumerate(subject.ground_truth.unit_ids)}
    subject = replace(subject, signal_to_noise=known)
    content = content_of(leave_page(leave_run(tmp_path, subject, found), subject))
    assert [unit["snr"] for unit in content["accuracy"]["units"]] == list(known.values())


def leave_page(folder, subject):
    return write_page(folder, subject).parent


def test_agreement_with_a_teacher(subject, found, tmp_path):
    without = replace(subject, ground_truth=None)
    folder = leave_run(tmp_path, without, found)
    pairs = agreement(subject.ground_truth, found, start_sample=START, stop_sample=STOP)
    pairs.save(folder / "agreement.json")
    units = [pair | {"num_spikes": 100} for pair in pairs.best()]
    summary = {"mean_best": pairs.mean_best, "pooled": pairs.pooled, "units": units}
    write_json(folder / "scores.json", {"pooled_accuracy": None, "mean_accuracy": None, "agreement": summary})
    content = content_of(leave_page(folder, without))
    assert content["accuracy"]["axis"] == "agreement"
    assert content["accuracy"]["units"][0]["value"] == 1.0
    assert content["confusion"]["down"] == "teacher's unit"
    assert content["confusion"]["share"][0][0] == 1.0
    assert {card["name"] for card in content["cards"]} >= {"agreement"}


def test_the_page_is_one_file_of_plain_text(folder):
    text = (folder / REPORT).read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "default-src 'none'" in text
    head = text[: text.index("<script>")]
    assert HOSTILE not in text
    assert not re.findall(r'(?:src|href)="(?!data:)', head)
    assert (folder / REPORT).stat().st_size < 8e6
    assert not list(folder.glob(".*"))


# --------------------------------------------------------------------------------------- odd recordings


def silent_sorting(unit_ids=("a",)):
    return NumpySorting.from_unit_dict([{name: np.zeros(0, dtype=np.int64) for name in unit_ids}], RATE)


def test_nothing_was_found(subject, tmp_path):
    content = content_of(leave_page(leave_run(tmp_path, subject, silent_sorting(["a", "b"])), subject))
    assert content["spikes"]["time"] == []
    assert [unit["num_spikes"] for unit in content["units"]] == [0, 0]
    assert content["confusion"] is None
    assert any("no spike lies far enough from the ends" in note for note in content["notes"])


def test_no_units_at_all(subject, tmp_path):
    content = content_of(leave_page(leave_run(tmp_path, subject, silent_sorting([])), subject))
    assert content["units"] == []


def test_one_channel_without_a_gain(subject, found, tmp_path):
    recording = subject.recording.select_channels(subject.recording.channel_ids[:1])
    traces = recording.get_traces().astype(np.float32)
    bare = NumpyRecording([traces], RATE)
    bare.set_dummy_probe_from_locations(recording.get_channel_locations())
    one = subject_of(bare)
    content = content_of(leave_page(leave_run(tmp_path, one, found, probability=False), one))
    assert content["quantity"] == "own unit"
    assert any("does not say its gain" in note for note in content["notes"])
    assert content["units"][0]["probabilities"] is None
    assert content["units"][0]["waveform"]["channels"] == [0]
    assert content["accuracy"] is None


def test_a_stretch_shorter_than_a_waveform(subject, tmp_path):
    sorting = NumpySorting.from_unit_dict([{"a": np.array([100_010])}], RATE)
    folder = leave_run(tmp_path, subject_of(subject.recording), sorting, start=100_000, stop=100_030)
    content = content_of(leave_page(folder, subject_of(subject.recording)))
    assert content["units"][0]["num_spikes"] == 1
    assert content["units"][0]["waveform"] is None


def test_probabilities_of_another_sorting_are_left_out(subject, found, tmp_path, caplog):
    folder = leave_run(tmp_path, subject, found, scores=False)
    np.save(folder / "sorting" / "probability.npy", np.ones(3, np.float32))
    with caplog.at_level(logging.WARNING):
        content = content_of(leave_page(folder, subject))
    assert "does not belong to the sorting beside it" in caplog.text
    assert content["units"][0]["probability"] is None


@pytest.fixture(scope="module")
def hour():
    """An hour that is made while it is read, with 8 busy units and one that fires twelve times."""
    probe = generate_multi_columns_probe(num_columns=2, num_contact_per_column=4, xpitch=20, ypitch=20)
    probe.set_device_channel_indices(np.arange(8))
    recording = generate_noise(probe, RATE, [3600.0], noise_levels=5.0, seed=0)
    recording.set_probe(probe)
    rng = np.random.default_rng(0)
    total = recording.get_num_samples()
    trains = {index: np.sort(rng.integers(0, total, 30_000)) for index in range(8)}
    trains[8] = np.sort(rng.integers(0, total, 12))
    return recording, NumpySorting.from_unit_dict([trains], RATE)


def test_an_hour_is_read_in_part(hour):
    recording, sorting = hour
    closeup = look_closely(recording, sorting, 0, recording.get_num_samples(), seconds=4.0)
    assert closeup.seconds <= 4.0
    assert np.ptp(closeup.sample_index) > 0.95 * recording.get_num_samples()
    counts = np.bincount(closeup.unit_index, minlength=9)
    assert counts.max() <= 300
    assert counts[8] >= 1  # it was looked for
    again = look_closely(recording, sorting, 0, recording.get_num_samples(), seconds=4.0, num_workers=1)
    np.testing.assert_array_equal(closeup.amplitude, again.amplitude)


def test_rates_of_an_hour_stay_few(hour):
    recording, sorting = hour
    trains = describe_trains(recording, sorting, None, 0, recording.get_num_samples())
    assert trains.counts.shape == (9, 120)
    assert trains.counts.sum() == 240_012
    assert trains.probabilities is None


# ----------------------------------------------------------------------------------------------- faults


def test_a_folder_without_a_sorting(subject, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected run.json in .*, which sorting leaves there"):
        write_page(tmp_path, subject)


def test_a_report_that_fails_costs_no_sorting(subject, found, tmp_path, caplog):
    folder = leave_run(tmp_path, subject, found)
    (folder / "model.safetensors").unlink()
    assert try_page(folder, subject) is None
    assert "no report.html; the sorting is whole" in caplog.text
    assert not (folder / REPORT).exists()
    spikeinterface.load(folder / "sorting")


def test_sort_leaves_a_report_unless_told_otherwise(trained, tmp_path):
    words = [
        f"checkpoint={trained.checkpoint}",
        "recording=path",
        f"recording.path={trained.run['recording']}",
    ]
    ended = run("sort.py", *words, f"output={tmp_path / 'with'}")
    assert ended.code == 0, ended.err
    assert f"report:   {tmp_path / 'with' / REPORT}" in ended.out
    content = content_of(tmp_path / "with")
    assert content["num_spikes"] == json.loads((tmp_path / "with" / "run.json").read_text())["num_spikes"]
    assert any(picture["title"].startswith("A stretch") for picture in content["pictures"])
    ended = run("sort.py", *words, f"output={tmp_path / 'with'}", "overwrite=true", "report=false")
    assert ended.code == 0, ended.err
    assert not (tmp_path / "with" / REPORT).exists()  # it was of the sorting that was replaced


# ----------------------------------------------------------------------------------------- in a browser


def browser_path():
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    return os.environ.get("ESORT_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = browser_path()
    if path is None:
        pytest.skip(
            "no Chromium on this machine: install one (apt-get install chromium), or set ESORT_CHROMIUM"
        )
    with playwright.sync_playwright() as started:
        # Run as root, as in a container, Chromium has no sandbox.
        launched = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def opened(browser, folder):
    """The page in a browser without a network; what went wrong on the way is asserted at the end."""
    context = browser.new_context(offline=True, viewport={"width": 1300, "height": 900})
    page = context.new_page()
    faults, requests = [], []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((folder / REPORT).as_uri())
    page.wait_for_selector("body[data-ready]", timeout=30_000)
    yield page
    assert faults == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()


def drawn(page, plot):
    """What plotly has drawn: points of each trace."""
    return page.evaluate("id => document.getElementById(id).data.map(trace => (trace.x || []).length)", plot)


def test_a_browser_clicks_through_the_units(opened, content):
    names = opened.locator("#list .row span").all_inner_texts()
    assert names == [unit["id"] for unit in content["units"]]
    for unit in content["units"]:
        opened.locator("#list .row").nth(content["units"].index(unit)).click()
        assert opened.locator("#unit-name").inner_text() == f"Unit {unit['id']}"
        assert drawn(opened, "autocorrelogram") == [len(content["correlogram_ms"])]
        assert len(drawn(opened, "waveform")) == (0 if unit["waveform"] is None else 2)
        shown = content["spikes"]["unit"].count(content["units"].index(unit))
        assert drawn(opened, "amplitude") == ([shown] if shown else [])
        assert drawn(opened, "drift") == [len(content["spikes"]["unit"]), shown]
        assert drawn(opened, "course") == [10, 10]
    assert opened.locator("#evil").count() == 0
    assert opened.locator("#unit svg.main-svg").count() > 0
    opened.locator("#list .row").first.click()
    assert drawn(opened, "motion") == [20, 20]
    curves = [len(unit["curve"]["labels"]) for unit in content["labels"]["units"]]
    assert drawn(opened, "labels") == [*curves, 0]


def test_a_browser_finds_sorts_and_walks(opened, content):
    opened.locator("#search").fill("c d")
    assert opened.locator("#list .row:visible").count() == 1
    opened.locator("#search").fill("")
    rates = "#metrics tbody tr td:nth-child(3)"
    opened.locator("#metrics th", has_text="firing_rate").click()
    values = [float(text) for text in opened.locator(rates).all_inner_texts()[:4]]
    assert values == sorted(values)
    opened.locator("#metrics th", has_text="firing_rate").click()
    values = [float(text) for text in opened.locator(rates).all_inner_texts()[-4:]]
    assert values == sorted(values, reverse=True)
    last = opened.locator("#metrics tbody tr").last
    name = last.locator("td").first.inner_text()
    last.click()
    assert opened.locator("#unit-name").inner_text() == f"Unit {name}"
    opened.locator("#list .row").first.click()
    opened.locator("#list").press("ArrowDown")
    assert opened.locator("#unit").get_attribute("data-unit") == content["units"][1]["id"]
    opened.locator("#list").press("ArrowUp")
    assert opened.locator(".row.chosen").inner_text().startswith("a")


def test_a_browser_chooses_units_in_the_plots(opened, content):
    unit = next(unit for unit in content["units"] if unit["id"] == "c d")
    opened.locator("#list .row").first.click()
    opened.evaluate("window.scrollTo(0, 0)")
    place = opened.evaluate(
        """([x, y]) => {
            const plot = document.getElementById("probe"), box = plot.getBoundingClientRect();
            const { xaxis, yaxis } = plot._fullLayout;
            return [box.left + xaxis._offset + xaxis.d2p(x), box.top + yaxis._offset + yaxis.d2p(y)];
        }""",
        [unit["x"], unit["y"]],
    )
    opened.mouse.move(*place)
    opened.mouse.click(*place)
    opened.wait_for_function("document.getElementById('unit').dataset.unit === 'c d'")
    assert not opened.locator("#accuracy-section").is_hidden()
    assert drawn(opened, "accuracy") == [4]  # the unit that was not found has no signal to noise
    assert opened.locator("#confusion svg.main-svg").count() > 0


def test_a_browser_opens_a_page_without_spikes(browser, subject, tmp_path):
    for name, unit_ids in (("silent", ["a"]), ("none", [])):
        folder = leave_page(leave_run(tmp_path / name, subject, silent_sorting(unit_ids)), subject)
        page = browser.new_page()
        faults = []
        page.on("pageerror", lambda error, faults=faults: faults.append(str(error)))
        page.goto((folder / REPORT).as_uri())
        page.wait_for_selector("body[data-ready]", timeout=30_000)
        assert faults == []
        assert page.locator("#units").is_hidden() == (unit_ids == [])
        assert page.locator("#motion-panel").is_hidden()
        assert page.locator("#labels-panel").is_hidden()
        page.close()
