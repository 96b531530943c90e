"""Tissue that moves along the probe: its motion is found, and the units are where they were learned."""

import functools
import pickle
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from drifting_data import RATE, contacts, make_drifting
from hypothesis import given, settings
from hypothesis import strategies as st
from spikeinterface.core.motion import Motion

from esort.announcement import announce
from esort.chunks import ChunkFolder, sort_in_chunks
from esort.detector import Postprocessing
from esort.evaluation import score
from esort.executor import ThreadExecutor
from esort.fitted import TrainingSettings
from esort.handling import marked
from esort.inference import block_samples, window_of
from esort.learning import LearningSpec
from esort.manifest import digests_of_outputs
from esort.motion import FollowedMotion
from esort.network import NetworkSpec
from esort.outcome import Outcome, sort_subject
from esort.preprocessing import Preprocessing
from esort.pursuit.evidence import SHIFTS_UM, MotionEvidence
from esort.pursuit.following import Follower, can_follow, motion_of
from esort.pursuit.missing import without_channels
from esort.pursuit.motion import CELL_S, NUM_CELLS, motion_around, shift_after
from esort.pursuit.moving import MovedWhitening, interpolation
from esort.sorter import Sorter
from esort.stream import StreamingSorter
from esort.training import train_units

SECONDS = np.arange(16)
LEARNED_S = 8
LOST = functools.partial(pytest.fail, "pursuit is learned without a trainer")


def learn(toy, folder, **parameters):
    train_units(
        toy.subject(),
        toy.labels(stop_s=LEARNED_S),
        LearningSpec(epochs=1),
        TrainingSettings(
            network=NetworkSpec(name="pursuit", parameters=parameters),
            preprocessing=Preprocessing(common_reference="none"),
            postprocessing=Postprocessing(),
            make_trainer=LOST,
        ),
        backbone=None,
        path=folder / "model.safetensors",
        folder=folder,
    )
    return Sorter.load(folder / "model.safetensors")


@pytest.fixture(scope="module")
def toy():
    """40 um in 16 s, up to 4 um a second."""
    return make_drifting(20 * np.cos(np.pi * (SECONDS + 0.5) / len(SECONDS)))


@pytest.fixture(scope="module")
def still():
    return make_drifting(np.zeros(len(SECONDS)))


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    return tmp_path_factory.mktemp("moving")


@pytest.fixture(scope="module")
def sorter(toy, learned):
    return learn(toy, learned)


@pytest.fixture(scope="module")
def whole(sorter, toy):
    return sorter.sort(toy.recording(), num_workers=1)


@pytest.fixture(scope="module")
def filtered(sorter, toy):
    return filtered_by(sorter, toy)


def filtered_by(sorter, toy):
    prepared = sorter.prepare(toy.recording())
    return sorter.network.filtered(*window_of(sorter.network, prepared, 0, prepared.num_samples))


def accuracy(toy, result):
    """On the seconds that no label came from."""
    truth = toy.subject().ground_truth
    stop = len(toy.traces)
    return score(
        truth, result.sorting(), start_sample=round(LEARNED_S * RATE), stop_sample=stop
    ).pooled_accuracy


def arrays(spikes):
    return spikes.sample_index, spikes.unit_index, spikes.probability


def assert_same(spikes, expected):
    assert len(expected.sample_index) > 100
    for found, wanted in zip(arrays(spikes), arrays(expected), strict=True):
        np.testing.assert_array_equal(found, wanted)


def assert_same_motion(found, expected):
    for name in ("times_s", "depths_um", "shift_um"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def part_of(spikes, start, stop):
    inside = (spikes.sample_index >= start) & (spikes.sample_index < stop)
    return type(spikes)(*(values[inside] for values in arrays(spikes)))


def off_by(motion, toy):
    """How far motion is from the truth, up to a constant, for each cell."""
    per_second = round(1 / CELL_S)
    truth = np.repeat(toy.shift_um, per_second)
    off = motion[: len(truth)] - truth[: len(motion)]
    return off - np.median(off)


def test_the_motion_is_found(sorter, toy, filtered):
    motion = motion_of(sorter.network, filtered, RATE / sorter.network.stride)
    assert motion.is_any
    assert motion.depths_um.shape == (1,)
    off = off_by(motion.shift_um[:, 0], toy)
    assert np.abs(off).max() <= 3
    assert np.sqrt(np.mean(off**2)) <= 1.5


def test_sorting_tells_how_the_tissue_moved(sorter, toy, whole):
    """From what came before alone: later than `motion_of` by a moment."""
    motion = whole.motion
    cell_s = block_samples(sorter.network, RATE) / RATE
    np.testing.assert_allclose(motion.times_s, cell_s * (np.arange(33) + 0.5))
    assert motion.shift_um.dtype == np.int64
    off = off_by(motion.shift_um[:, 0], toy)
    assert np.sqrt(np.mean(off[2:] ** 2)) <= 3
    assert 34 <= motion.range_um <= 46


def test_following_finds_what_moves(sorter, toy, whole, tmp_path):
    followed = accuracy(toy, whole)
    assert followed > 0.93
    stuck = learn(toy, tmp_path, follows=False)
    assert stuck.follower() is None
    assert stuck.network.follows is False
    result = stuck.sort(toy.recording())
    assert result.motion is None
    assert followed > accuracy(toy, result) + 0.2


def test_a_recording_that_rests_is_sorted_as_without_following(still, tmp_path):
    follows = learn(still, tmp_path)
    assert follows.network.follows is True
    motion = motion_of(follows.network, filtered_by(follows, still), RATE / follows.network.stride)
    assert not motion.is_any
    result = follows.sort(still.recording())
    assert result.motion.range_um == 0
    found = accuracy(still, result)
    assert found > 0.95
    without = learn(still, tmp_path, follows=False).sort(still.recording())
    assert found == pytest.approx(accuracy(still, without), abs=0.01)


@pytest.mark.parametrize("num_workers", [2, 5])
def test_the_same_for_any_number_of_workers(sorter, toy, whole, num_workers):
    assert_same(sorter.sort(toy.recording(), num_workers=num_workers).spikes, whole.spikes)


@pytest.mark.parametrize(("start_s", "stop_s"), [(0, 1), (0.49, 7.3), (2.999, 16), (9.51, 13.2), (15.9, 16)])
def test_a_stretch_has_the_spikes_of_the_whole(sorter, toy, whole, start_s, stop_s):
    start, stop = round(start_s * RATE) + 1, round(stop_s * RATE)
    found = sorter.sort(toy.recording(), start_sample=start, stop_sample=stop)
    for one, other in zip(arrays(found.spikes), arrays(part_of(whole.spikes, start, stop)), strict=True):
        np.testing.assert_array_equal(one, other)
    times_s = whole.motion.times_s
    half = block_samples(sorter.network, RATE) / RATE / 2
    touching = (times_s + half > start / RATE) & (times_s - half < stop / RATE)
    assert touching.any()
    np.testing.assert_array_equal(found.motion.times_s, times_s[touching])
    np.testing.assert_array_equal(found.motion.shift_um, whole.motion.shift_um[touching])


def test_nothing_sorted_is_no_motion(sorter, toy):
    assert sorter.sort(toy.recording(), start_sample=5000, stop_sample=5000).motion is None


def test_motion_of_a_recording_of_another_rate(sorter, toy, whole):
    """Its times are those of the recording."""
    from spikeinterface.preprocessing import resample

    other = marked(resample(toy.recording(), 30_000), resample=True)
    motion = sorter.sort(other, stop_sample=30_000 * 6).motion
    np.testing.assert_allclose(motion.times_s, whole.motion.times_s[:13], atol=1e-4)
    assert np.abs(motion.shift_um - whole.motion.shift_um[:13]).max() <= 4


@pytest.mark.parametrize("chunk_s", [1.3, 5.0])
def test_chunks_have_the_spikes_of_the_whole(sorter, toy, whole, chunk_s, tmp_path):
    found = sort_in_chunks(
        sorter, toy.recording(), ChunkFolder(tmp_path, {}), executor=ThreadExecutor(chunk_s=chunk_s)
    )
    assert_same(found.spikes, whole.spikes)
    assert_same_motion(found.motion, whole.motion)


def test_motion_survives_an_interruption(sorter, toy, tmp_path):
    def stopping(blocks):
        for number, block in enumerate(blocks):
            if number == 11:
                raise KeyboardInterrupt
            yield block

    recording = toy.recording().frame_slice(0, round(9 * RATE))
    executor, chunks = ThreadExecutor(chunk_s=2.2), ChunkFolder(tmp_path, {})
    with pytest.raises(KeyboardInterrupt):
        sort_in_chunks(sorter, recording, chunks, executor=executor, progress=stopping)
    assert list(tmp_path.glob("*.npz"))
    whole = sorter.sort(recording).motion
    for _ in range(2):  # the second time all is there
        found = sort_in_chunks(sorter, recording, chunks, executor=executor, resume=True)
        assert_same_motion(found.motion, whole)


def joined(pieces):
    columns = [np.concatenate([arrays(piece)[number] for piece in pieces]) for number in range(3)]
    order = np.lexsort((columns[1], columns[0]))
    return type(pieces[0])(*(column[order] for column in columns))


@pytest.mark.parametrize("longest", [1_234, 40_000, 10**6])
def test_a_stream_has_the_spikes_of_the_file(sorter, toy, longest):
    recording = toy.recording().frame_slice(0, round(7.2 * RATE) + 1)
    rng = np.random.default_rng(longest)
    stream, pieces, start = StreamingSorter.like(sorter, recording), [], 0
    while start < recording.get_num_samples():
        stop = min(recording.get_num_samples(), start + int(rng.integers(longest + 1)))
        pieces.append(stream.push(recording.get_traces(start_frame=start, end_frame=stop)))
        start = stop
    pieces.append(stream.finish())
    wanted = sorter.sort(recording)
    assert_same(joined(pieces), wanted.spikes)
    assert_same_motion(stream.motion, wanted.motion)


def test_a_stream_begins_anew_behind_a_gap(sorter, toy):
    """What was learned of the motion before it is forgotten, as for a recording that begins there."""
    recording = toy.recording()
    stream = StreamingSorter.like(sorter, recording)
    early = recording.get_traces(start_frame=0, end_frame=130_001)
    behind = recording.frame_slice(200_000, 330_000)
    stream.push(early)
    stream.finish()
    found = joined([stream.push(behind.get_traces(), 200_000), stream.finish()])
    wanted = sorter.sort(behind)
    spikes = type(wanted.spikes)(found.sample_index - 200_000, *arrays(found)[1:])
    assert_same(spikes, wanted.spikes)
    motion = stream.motion
    assert len(motion.times_s) == 9 + 9
    np.testing.assert_allclose(motion.times_s[9:], wanted.motion.times_s + 200_000 / RATE)
    np.testing.assert_array_equal(motion.shift_um[9:], wanted.motion.shift_um)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 2000), max_size=6), data=st.data())
def test_evidence_piece_by_piece_is_the_same_to_the_bit(sorter, filtered, cuts, data):
    start = data.draw(st.integers(0, filtered.shape[1] - 2200))
    source = MotionEvidence(sorter.network)
    stretch = filtered[:, start : start + 2000 + sorter.network.filters.shape[1] - 1]
    whole, pieces = source.empty(), source.empty()
    source.add(whole, stretch, 0, 2000)
    edges = [0, *sorted(cuts), 2000]
    for first, last in pairwise(edges):
        source.add(pieces, stretch, first, last)
    np.testing.assert_array_equal(pieces.total, whole.total)
    np.testing.assert_array_equal(pieces.quota, whole.quota)
    assert (whole.quota >= 0).all()


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 900), min_size=1, max_size=8))
def test_a_cell_of_a_stream_says_what_the_whole_cell_says(sorter, filtered, lengths):
    ahead = sorter.network.filters.shape[1] - 1
    stretch = filtered[:, : sum(lengths) + ahead]
    follower, start, scores = Follower(sorter.network), 0, []
    cell = follower.piecewise(0)
    for length in lengths:
        scores.append(cell.scores(stretch[:, start : start + length + ahead]))
        start += length
    cell.end()
    other = Follower(sorter.network)
    other.learn(0, other.evidence(stretch))
    np.testing.assert_array_equal(follower._past[0], other._past[0])
    whole = other.scores(stretch, np.zeros(1, dtype=np.int64))
    np.testing.assert_array_equal(np.concatenate(scores), whole)


def test_a_follower_forgets_what_is_long_ago(sorter):
    follower = Follower(sorter.network)
    for cell in range(20):
        follower.learn(cell, np.zeros((1, len(SHIFTS_UM))))
    assert len(follower._past) == NUM_CELLS
    assert (follower.shift_um(20) == 0).all()
    assert (follower.shift_um(400) == 0).all()


# Evidence to motion


def hill(shift_um, height=100.0, width_um=12.0):
    """Evidence for one shift, also between those that are tried: (G,)."""
    return height * np.exp(-0.5 * ((SHIFTS_UM - shift_um) / width_um) ** 2)


def test_without_evidence_nothing_moves():
    assert (shift_after([]) == 0).all()
    nothing = np.zeros((3, len(SHIFTS_UM)))
    assert shift_after([nothing]).tolist() == [0, 0, 0]
    assert motion_around(np.zeros((5, 3, len(SHIFTS_UM)))).tolist() == [[0] * 3] * 5


@pytest.mark.parametrize("shift_um", [-41, -18, -7.5, 0, 1.4, 6, 12.5, 40])
@pytest.mark.parametrize("num_cells", [1, NUM_CELLS])
def test_a_peak_between_two_shifts_that_were_tried(shift_um, num_cells):
    found = shift_after([hill(shift_um)[None]] * num_cells)
    assert found.dtype == np.int64
    assert found.shape == (1,)
    assert found[0] % 2 == 0
    assert abs(found[0] - shift_um) <= 1.6
    around = motion_around(np.stack([hill(shift_um)[None]] * 9))
    assert np.abs(around - shift_um).max() <= 1.6


def test_depths_move_apart():
    found = shift_after([np.stack([hill(-10), hill(0), hill(14)])] * NUM_CELLS)
    np.testing.assert_allclose(found, [-10, 0, 14], atol=2)


def test_a_depth_where_nothing_fires_goes_with_the_rest():
    found = shift_after([np.stack([hill(12), np.zeros(len(SHIFTS_UM)), hill(12)])] * NUM_CELLS)
    np.testing.assert_allclose(found, [12, 12, 12], atol=1)


def test_of_two_shifts_that_are_as_likely_the_smaller():
    assert abs(shift_after([(hill(-30) + hill(10))[None]])[0] - 10) <= 1
    assert abs(shift_after([(hill(30) + hill(-10))[None]])[0] + 10) <= 1
    assert abs(shift_after([(hill(20) + hill(-20))[None]])[0]) == 20


@pytest.mark.parametrize("speed", [-2, -1, 1, 2])
def test_a_motion_goes_on(speed):
    """The cell after the last, and those in between: on a straight line."""
    line = np.stack([hill(speed * cell, height=2000.0)[None] for cell in range(-NUM_CELLS, 0)])
    assert abs(shift_after(list(line[::-1]))[0]) <= 1
    wanted = speed * np.arange(-NUM_CELLS, 0)
    assert np.abs(motion_around(line)[:, 0] - wanted).max() <= 2


def test_one_strange_cell_does_not_turn_the_motion():
    cells = [hill(-40)[None], *[hill(4)[None]] * (NUM_CELLS - 1)]
    assert abs(shift_after(cells)[0] - 4) <= 2


def test_which_probes_can_be_followed():
    column = np.column_stack([np.zeros(16), np.linspace(0, 150, 16)])
    assert can_follow(column)
    assert not can_follow(column[:15] * [1, 2])
    assert not can_follow(column * [1, 0.99])
    assert not can_follow(column[:, ::-1])  # along x nobody moves
    assert can_follow(contacts())


# Traces that are moved back


def field(positions_um, depth_um, width_um=30.0):
    square = (positions_um[:, 0] - 10) ** 2 + (positions_um[:, 1] - depth_um) ** 2
    return np.exp(-0.5 * square / width_um**2)


@settings(max_examples=30, deadline=None)
@given(shift_um=st.floats(-30, 30), depth_um=st.floats(80, 140))
def test_a_field_that_has_moved_is_moved_back(shift_um, depth_um):
    positions = contacts()
    back = interpolation(positions, np.full(len(positions), shift_um)) @ field(positions, depth_um + shift_um)
    np.testing.assert_allclose(back, field(positions, depth_um), atol=0.1)
    # Where the field is, and not only how large.
    assert back @ positions[:, 1] / back.sum() == pytest.approx(depth_um, abs=3)


def test_a_dead_channel_is_no_source():
    positions = contacts()
    present = np.ones(len(positions), dtype=bool)
    present[[3, 10]] = False
    weights = interpolation(positions, np.full(len(positions), 8.0), present)
    assert (weights[:, [3, 10]] == 0).all()
    # What the others show there stands for it.
    seen = field(positions, 110.0)
    np.testing.assert_allclose(weights @ (seen * present), field(positions, 102.0), atol=0.1)
    whitening = np.diag(present.astype(np.float32))
    for smooth in (False, True):
        moved = MovedWhitening(whitening, positions, smooth=smooth)
        for shift_um in (0, 2, 14):
            matrix = moved.matrix(np.zeros(1), np.array([shift_um]))
            assert (matrix[:, ~present] == 0).all()
            assert (matrix[~present] == 0).all()


@pytest.mark.parametrize("shift_um", [-30, -20, 0, 8, 20, 30])
@pytest.mark.parametrize("smooth", [False, True])
def test_noise_is_nowhere_louder_for_being_moved(shift_um, smooth):
    """Past the ends of the probe it would be: a unit there would find spikes in it."""
    positions = contacts()
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    values, vectors = np.linalg.eigh(49 * (np.exp(-distance / 25) + 0.1 * np.eye(len(positions))))
    mixing = (vectors * np.sqrt(values)) @ vectors.T
    whitening = np.linalg.inv(mixing).astype(np.float32)
    whitening[5] = whitening[:, 5] = 0  # a dead channel
    noise = mixing @ np.random.default_rng(0).standard_normal((len(positions), 20_000))
    noise[5] = 0
    moved = MovedWhitening(whitening, positions, smooth=smooth)
    matrix = moved.matrix(np.zeros(1), np.array([shift_um]))
    assert (matrix @ noise).std(axis=1).max() < 1.15
    # Where the probe goes on, nothing is taken away.
    if smooth:
        present = np.arange(len(positions)) != 5
        raw = whitening @ interpolation(positions, np.full(len(positions), float(shift_um)), present)
        inside = (positions[:, 1] > 60) & (positions[:, 1] < positions[:, 1].max() - 60) & present
        np.testing.assert_allclose(matrix[inside], raw[inside], atol=0.02 * np.abs(raw).max())


def test_a_whitening_that_has_no_inverse():
    positions = contacts()
    flat = np.full((len(positions), len(positions)), 0.1, dtype=np.float32)
    matrix = MovedWhitening(flat, positions, smooth=True).matrix(np.zeros(1), np.array([4]))
    assert np.isfinite(matrix).all()


@pytest.mark.parametrize("shift_um", [0.0, -60.0, 7.0])
def test_a_long_probe_is_solved_piece_by_piece(shift_um):
    """Each contact as if all of the others were asked: it need not be where pieces meet, nor sorted."""
    positions = np.array([[16.0 * (index % 2), 15.0 * (index // 2)] for index in range(300)])
    positions = np.random.default_rng(0).permutation(positions)
    weights = interpolation(positions, np.full(len(positions), shift_um))
    square = ((positions[:, None] - positions[None]) ** 2).sum(axis=2)
    targets = positions + np.array([0, shift_um])
    across = ((positions[:, None] - targets[None]) ** 2).sum(axis=2)
    within = np.exp(-square / 55**2) + 0.01 * np.eye(len(positions))
    np.testing.assert_allclose(weights, np.linalg.solve(within, np.exp(-across / 55**2)).T, atol=1e-4)


def test_a_scorer_that_travels_takes_along_its_arrays_alone(sorter):
    scorer = sorter.network.scorer()
    traces = np.random.default_rng(0).standard_normal((scorer.num_channels, 200)).astype(np.float32)
    before = pickle.dumps(scorer)
    scores = scorer.scores(scorer.resting_rows @ traces)
    there = pickle.loads(before)  # noqa: S301 (our own)
    assert len(pickle.dumps(scorer)) == len(before)
    np.testing.assert_array_equal(there.scores(there.resting_rows @ traces), scores)


def test_at_rest_it_is_the_resting_whitening(sorter):
    network = sorter.network
    moved = network.scorer().moved_whitening
    depths = Follower(network).depths_um
    at_rest = moved.matrix(depths, np.zeros(len(depths), dtype=np.int64))
    np.testing.assert_array_equal(at_rest, network.resting_whitening())
    traces = np.random.default_rng(0).standard_normal((network.num_channels, 50)).astype(np.float32)
    np.testing.assert_allclose(moved.rows(depths, np.zeros(1)) @ traces, at_rest @ traces, atol=1e-3)
    # Units that were learned at rest keep what one contact alone sees.
    rigid = MovedWhitening(network.whitening.numpy(), contacts(), smooth=False)
    kept = rigid.matrix(np.zeros(1), np.zeros(1))
    np.testing.assert_allclose(kept, network.whitening.numpy(), atol=2e-3 * np.abs(kept).max())


def test_between_two_depths_the_shift_is_linear():
    positions = contacts(num_rows=21)
    moved = MovedWhitening(np.eye(len(positions), dtype=np.float32), positions, smooth=True)
    found = moved.matrix(np.array([100.0, 300.0]), np.array([0, 20]))
    for depth_um, shift_um in ((0, 0), (100, 0), (200, 10), (240, 14), (300, 20), (400, 20)):
        rigid = moved.matrix(np.zeros(1), np.array([shift_um]))
        (at,) = np.nonzero(positions[:, 1] == depth_um)
        np.testing.assert_array_equal(found[at], rigid[at])


def test_matrices_are_kept_and_forgotten():
    positions = contacts()
    moved = MovedWhitening(np.eye(len(positions), dtype=np.float32), positions, smooth=True)
    depths = np.array([50.0, 150.0])
    first = moved.rows(depths, np.array([0, 2]))
    assert moved.rows(depths, np.array([0, 2])) is first
    others = [np.array([low, high]) for low in range(-40, 40, 2) for high in (low - 2, low + 4)]
    with ThreadPoolExecutor(4) as pool:  # blocks are whitened by threads
        list(pool.map(lambda shift_um: moved.rows(depths, shift_um), others * 2))
    assert moved.rows(depths, np.array([0, 2])) is not first


# Channels that have died since


def test_a_dead_channel_does_not_drive_the_motion(sorter, toy, whole):
    dead = 10  # in the middle, where units are
    recordings = []
    for fill in (0.0, 3000.0):
        broken = make_drifting(toy.shift_um)
        rng = np.random.default_rng(1)
        broken.traces[:, dead] = fill * rng.standard_normal(len(broken.traces))
        recordings.append(marked(broken.recording(), bad_channel_ids=[dead], blanking=False))
    silent, loud = (sorter.sort(recording) for recording in recordings)
    assert silent.bad_channel_ids == (dead,)
    assert_same(loud.spikes, silent.spikes)
    assert_same_motion(loud.motion, silent.motion)
    assert accuracy(toy, silent) > accuracy(toy, whole) - 0.05


def test_evidence_without_some_channels(sorter, filtered):
    """Neither NaN nor a peak comes of them."""
    network = without_channels(sorter.network, np.array([0, 9, 23]))
    garbage = filtered.copy()
    garbage[[0, 9, 23]] = 1e5 * np.random.default_rng(0).standard_normal((3, filtered.shape[1]))
    source = MotionEvidence(network)
    clean, dirty = source.empty(), source.empty()
    source.add(clean, filtered[:, :6000], 0, 5000)
    source.add(dirty, garbage[:, :6000], 0, 5000)
    assert np.isfinite(clean.total).all()
    assert clean.total.max() > 0
    np.testing.assert_array_equal(dirty.total, clean.total)


# What a user sees


def test_the_motion_lies_in_the_folder_that_sorting_leaves(sorter, toy, whole, learned, tmp_path):
    outcome = sort_subject(learned / "model.safetensors", toy.subject(), tmp_path / "out")
    assert outcome.run["motion_um"] == whole.motion.range_um
    saved = Motion.load(tmp_path / "out" / "sorting" / "motion")
    np.testing.assert_array_equal(saved.displacement[0], whole.motion.shift_um)
    assert_same_motion(FollowedMotion.load(tmp_path / "out" / "sorting" / "motion"), whole.motion)
    assert "sorting/motion/displacement_seg0.npy" in digests_of_outputs(tmp_path / "out")


def test_the_summary_says_that_the_tissue_moved(capsys, tmp_path):
    def say(motion_um):
        run = {"executor": "threads", "cores": 2, "num_spikes": 3, "num_units": 1, "real_time_factor": 9.0}
        announce(
            Outcome(
                folder=tmp_path, run=run | {"motion_um": motion_um}, sorting=None, scores=None, pictures=[]
            )
        )
        return capsys.readouterr().out

    assert "\nthe tissue moved by 14 um\n" in say(14)
    assert "tissue" not in say(2) + say(None)


def test_through_spikeinterface_of_each_segment(toy, learned, tmp_path):
    from spikeinterface.core import append_recordings
    from spikeinterface.sorters import run_sorter

    segments = [toy.recording().frame_slice(0, 64_000), toy.recording().frame_slice(64_000, 160_000)]
    both = append_recordings(segments).save(folder=tmp_path / "both")
    run_sorter("esort", both, folder=tmp_path / "out", checkpoint=str(learned / "model.safetensors"))
    motion = Motion.load(tmp_path / "out" / "sorter_output" / "sorting" / "motion")
    assert [len(times) for times in motion.temporal_bins_s] == [5, 7]


@pytest.mark.parametrize("value", ["no", 0, None])
def test_whether_to_follow_is_true_or_false(value):
    with pytest.raises(ValueError, match=f"follows must be true or false, got {value!r}"):
        NetworkSpec(name="pursuit", parameters={"follows": value})
