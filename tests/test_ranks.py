"""Several processes that train together: what cannot be done is refused before any of them starts."""

import numpy as np
import pytest
import pytorch_lightning as pl

from esort.ranks import Ranks, SharedTraces, check_trainer, training_along


def trainer(**options):
    options = {"devices": 2, "strategy": "ddp", "plugins": [Ranks()], **options}
    return pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **options)


def test_one_process_may_have_any_batch():
    check_trainer(trainer(devices=1, strategy="auto"), 3)
    check_trainer(trainer(), 4)


@pytest.mark.parametrize(
    ("options", "batch_size", "line"),
    [
        ({"num_nodes": 2}, 64, "trainer.num_nodes must be 1: one machine trains, got 2"),
        (
            {"strategy": "ddp_spawn"},
            64,
            "trainer.strategy must be ddp with 2 devices, got DDPStrategy by spawn",
        ),
        ({}, 65, "batch_size must be a multiple of trainer.devices=2 and give each two windows, got 65"),
        ({}, 2, "batch_size must be a multiple of trainer.devices=2 and give each two windows, got 2"),
    ],
)
def test_what_cannot_be_trained_is_refused(options, batch_size, line):
    with pytest.raises(ValueError) as error:
        check_trainer(trainer(**options), batch_size)
    assert str(error.value) == line


def test_traces_in_a_file_travel_as_its_path(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.save(tmp_path / "traces.npy", values)
    mapped = np.load(tmp_path / "traces.npy", mmap_mode="r")
    assert isinstance(SharedTraces(mapped).open(), np.memmap)
    for traces in (mapped, values, mapped[1:]):
        np.testing.assert_array_equal(SharedTraces(traces).open(), traces)


def leave(environment, ready, code):
    raise SystemExit(code)


@pytest.mark.slow
def test_a_process_that_ends_before_it_trains_is_named():
    with (
        pytest.raises(
            OSError, match="process 1 of 2 that train together ended with code 7: resume=true goes"
        ),
        training_along(2, Ranks().main_port, leave, 7),
    ):
        pass
