"""Soft overlong punishment against values computed by hand from equation 13 of arXiv 2503.14476."""

from __future__ import annotations

import pytest
import torch

from forkpoint.errors import InputError
from forkpoint.verify.length import overlong_penalty, overlong_penalty_B

# max 20480, buffer 4096 as in the paper: free up to 16384, then one 4096th a token.
PAPER = [
    (0, 0.0),
    (16384, 0.0),
    (16385, -1 / 4096),
    (17408, -0.25),
    (18432, -0.5),
    (20479, -4095 / 4096),
    (20480, -1.0),
    (20481, -1.0),
    (99999, -1.0),
]


@pytest.mark.parametrize(("length", "penalty"), PAPER)
def test_overlong_penalty_of_the_paper(length, penalty):
    assert overlong_penalty(length, max_length=20480, buffer=4096) == penalty


def test_tensor_form_equals_the_scalar_form():
    length_B = torch.tensor([length for length, _ in PAPER])
    penalty_B = overlong_penalty_B(length_B, max_length=20480, buffer=4096)
    assert penalty_B.dtype == torch.float32
    assert penalty_B.tolist() == [penalty for _, penalty in PAPER]


def test_buffer_as_long_as_the_limit_starts_at_the_first_token():
    assert [overlong_penalty(n, max_length=4, buffer=4) for n in range(6)] == [0, -0.25, -0.5, -0.75, -1, -1]


@pytest.mark.parametrize("buffer", [0, -1, 21])
def test_impossible_buffer_is_named(buffer):
    with pytest.raises(InputError, match=rf"max_length \(20\), not {buffer}"):
        overlong_penalty(1, max_length=20, buffer=buffer)
    with pytest.raises(InputError):
        overlong_penalty_B(torch.tensor([1]), max_length=20, buffer=buffer)
