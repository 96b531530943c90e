"""Threads of libraries."""

import pytest
from threadpoolctl import threadpool_info

from esort.threads import map_in_threads, one_thread_each, with_threads


def counts():
    return [found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"]


@pytest.mark.parametrize("fails", [False, True])
def test_numpy_and_torch_work_with_so_many_and_then_as_before(fails):
    import torch

    before = (counts(), torch.get_num_threads())
    with pytest.raises(KeyError) if fails else with_threads(1), with_threads(1):
        assert min(counts()) == 1
        assert torch.get_num_threads() == 1
        if fails:
            raise KeyError
    assert (counts(), torch.get_num_threads()) == before


def test_each_of_the_workers_has_one():
    assert all(min(found) == 1 for found in map_in_threads(lambda _: counts(), range(3)))
    with one_thread_each():
        assert min(counts()) == 1
