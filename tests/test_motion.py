"""Motion that sorting followed: SpikeInterface's object and folder, joined from parts."""

import numpy as np
import pytest
from spikeinterface.core.motion import Motion

from esort.chunks import ChunkFolder
from esort.detector import no_spikes
from esort.motion import FollowedMotion


def make_motion(first=0, last=10, depths=(100.0, 300.0)):
    times = np.arange(first, last)
    shift = np.stack([2 * times, -4 * times], axis=1)[:, : len(depths)]
    return FollowedMotion(times_s=0.25 + 0.5 * times, depths_um=np.array(depths), shift_um=shift)


def assert_same(found, wanted):
    for name in ("times_s", "depths_um", "shift_um"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert found.shift_um.dtype == np.int64


def test_spikeinterface_s_motion_says_the_same():
    motion = make_motion().to_spikeinterface()
    at = motion.get_displacement_at_time_and_depth(
        np.array([0.25, 2.25, 2.5]), np.array([100.0, 300.0, 200.0])
    )
    np.testing.assert_allclose(at, [0, -16, (8 + 10 - 16 - 20) / 4])
    assert_same(FollowedMotion.from_spikeinterface(motion), make_motion())
    both = make_motion().to_spikeinterface(make_motion(2, 5))
    assert both.num_segments == 2
    np.testing.assert_array_equal(both.displacement[1], make_motion(2, 5).shift_um)


def test_saved_it_loads_in_spikeinterface_too(tmp_path):
    folder = tmp_path / "motion"
    make_motion(0, 3).save(folder)
    make_motion().save(folder)  # replaced
    assert_same(FollowedMotion.load(folder), make_motion())
    assert Motion.load(folder) == make_motion().to_spikeinterface()
    assert [path.name for path in tmp_path.iterdir()] == ["motion"]
    with pytest.raises(OSError, match="does not contain a Motion object"):
        FollowedMotion.load(tmp_path)


def test_a_recording_of_a_moment_is_saved_too(tmp_path):
    motion = make_motion(0, 1, depths=(50.0,))
    motion.save(tmp_path / "motion")
    assert_same(FollowedMotion.load(tmp_path / "motion"), motion)
    assert motion.range_um == make_motion(0, 0).range_um == 0


def test_range_is_that_of_the_depth_that_moved_most():
    assert make_motion().range_um == 36
    assert make_motion(depths=(100.0,)).range_um == 18


def test_stretches_are_joined_and_what_two_tell_of_is_told_once():
    parts = [make_motion(0, 4), make_motion(3, 4), make_motion(3, 7), make_motion(7, 10)]
    assert_same(FollowedMotion.joined(parts), make_motion())
    assert_same(FollowedMotion.joined(reversed(parts)), make_motion())
    assert FollowedMotion.joined([]) is None


def test_cells_by_their_first_sample():
    shifts = {16_000: np.array([2]), 0: np.array([0]), 32_000: np.array([-4])}
    motion = FollowedMotion.of_cells(
        shifts, depths_um=np.array([70.0]), length_s=0.5, sampling_frequency=32_000.0
    )
    assert motion.times_s.tolist() == [0.25, 0.75, 1.25]
    assert motion.shift_um.tolist() == [[0], [2], [-4]]


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"expected shifts of 2 times at 1 depths, got shape \(3, 1\)"):
        FollowedMotion(times_s=np.zeros(2), depths_um=np.zeros(1), shift_um=np.zeros((3, 1)))


def test_motion_of_a_chunk_that_is_damaged_is_refused(tmp_path):
    chunks, motion = ChunkFolder(tmp_path, {}), make_motion()
    chunks.save(0, no_spikes(), motion=motion)
    assert_same(chunks.motion([0]), motion)
    (path,) = tmp_path.glob("*.npz")
    content = path.read_bytes()
    assert content.count(motion.shift_um.tobytes()) == 1
    path.write_bytes(content.replace(motion.shift_um.tobytes(), bytes(motion.shift_um.nbytes)))
    with pytest.raises(ValueError, match=r"is damaged \(.*\): start anew with resume=false"):
        chunks.load(0)


def test_chunks_without_motion(tmp_path):
    chunks = ChunkFolder(tmp_path, {})
    chunks.save(0, no_spikes())
    assert chunks.motion([0]) is None
