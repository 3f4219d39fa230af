"""The largest batch that fits, found with steps that run out of memory at a known size."""

from __future__ import annotations

import gc
import weakref
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from effnet_builder.failures import is_out_of_memory
from effnet_builder.train.probe import largest_batch, micro_batches

CPU_MESSAGE = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"


@given(st.integers(2, 3000), st.integers(0, 4000), st.booleans())
def test_it_is_the_largest_nice_number_that_fits(batch: int, limit: int, cuda: bool) -> None:
    tried: list[int] = []

    def step(count: int) -> None:
        tried.append(count)
        if count > limit:
            raise torch.OutOfMemoryError("CUDA out of memory") if cuda else RuntimeError(CPU_MESSAGE)

    with mock.patch("effnet_builder.failures.gc.collect"):  # of which a hundred cases would do nothing else
        found = largest_batch(step, batch)
    nice = [size for size in range(2, batch) if size % 8 == 0 or size in (2, 4)]
    assert found == (batch if batch <= limit else max([size for size in nice if size <= limit], default=0))
    assert tried[0] == batch
    assert len(tried) <= 2 + len(nice).bit_length()
    assert len(set(tried)) == len(tried)
    assert all(size >= 2 for size in tried)


def test_what_failed_is_let_go_before_the_next_try() -> None:
    kept: list[weakref.ref[torch.Tensor]] = []

    def step(count: int) -> None:
        gc.collect()
        assert not [held for held in kept if held() is not None]
        images = torch.empty(count)
        kept.append(weakref.ref(images))
        if count > 10:
            raise torch.OutOfMemoryError

    assert largest_batch(step, 64) == 8


def test_the_allocator_of_the_cpu_is_understood() -> None:
    def step(count: int) -> None:
        torch.empty(count * 2**44)  # 16 TiB an image, more than any machine has

    assert largest_batch(step, 16) == 0


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("no"), KeyboardInterrupt()]
)
def test_other_errors_are_not_taken_for_a_lack_of_memory(error: BaseException) -> None:
    def step(count: int) -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        largest_batch(step, 8)
    assert raised.value is error
    assert not is_out_of_memory(error)
    assert is_out_of_memory(MemoryError())


@given(st.integers(2, 2000), st.integers(0, 2500))
def test_parts_are_as_few_as_can_be(batch: int, fits: int) -> None:
    sizes = {
        parts: [len(part) for part in torch.arange(batch).tensor_split(parts)] for parts in range(1, min(batch, 40) + 1)
    }
    allowed = [parts for parts, shares in sizes.items() if max(shares) <= fits]
    if fits < 2 or (allowed and min(sizes[allowed[0]]) < 2):
        with pytest.raises(ValueError, match=f"{batch} images cannot be shared out in parts of 2 to {fits}"):
            micro_batches(batch, fits)
    elif allowed:
        assert micro_batches(batch, fits) == allowed[0]


@pytest.mark.parametrize(
    ("batch", "fits", "parts"), [(128, 128, 1), (128, 127, 2), (128, 33, 4), (100, 8, 13), (5, 3, 2), (4, 2, 2)]
)
def test_parts_by_hand(batch: int, fits: int, parts: int) -> None:
    assert micro_batches(batch, fits) == parts


def test_a_single_image_is_refused() -> None:
    for batch, fits in ((3, 2), (7, 2), (8, 1), (8, 0)):
        with pytest.raises(ValueError, match="cannot be shared out"):
            micro_batches(batch, fits)
