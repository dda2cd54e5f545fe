"""Static steps, uncaptured: nothing here has a GPU, so capture and replay are not run."""

import warnings
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from forkpoint.decode import graphs
from forkpoint.decode.answers import Book
from forkpoint.decode.decoder import Sampling, _prefill, decode
from forkpoint.errors import TrainingError
from forkpoint.seeds import key
from tiny import qwen3

STOPS = (1, 2, 3)


def requests(count, copies):
    rng = np.random.default_rng(1)
    prompts = [rng.integers(4, 23, size=int(rng.integers(1, 12))).tolist() for _ in range(count)]
    prompts = [prompt for prompt in prompts for _ in range(copies)]
    return prompts, [key("static", i) for i in range(len(prompts))]


@pytest.mark.parametrize("slots", [1, 5, 20, 64])
def test_same_answers_as_with_growing_shapes(slots):
    prompts, streams = requests(20, 3)
    sampling = Sampling(max_tokens=70, stop_ids=STOPS, slots=slots)
    model = qwen3()
    dynamic, static = (decode(model, prompts, streams, sampling, static=static) for static in (False, True))
    assert [answer.ids for answer in static] == [answer.ids for answer in dynamic]
    assert [answer.finish for answer in static] == [answer.finish for answer in dynamic]
    for name in ("logp", "entropy"):
        values = [
            torch.tensor([x for answer in answers for x in getattr(answer, name)]) for answers in (static, dynamic)
        ]
        torch.testing.assert_close(*values, atol=2e-5, rtol=1e-4)


def test_addresses_and_shapes_never_change(monkeypatch):
    """Within a number of rows, every step reads and writes the same memory, whoever enters and leaves."""
    places = {}
    real = graphs.static_step

    def watched(model, state, sampling):
        tensors = [
            getattr(state, name) for name in ("cursor_1", "tick_1", "last_R", "length_R", "uniform_RK", "drawn_3RK")
        ]
        tensors += [x for layer in state.cache.layers for x in (layer.keys, layer.values, layer.cursor_1)]
        real(model, state, sampling)
        places.setdefault(len(state.last_R), []).append(tuple((x.data_ptr(), *x.shape) for x in tensors))

    monkeypatch.setattr(graphs, "static_step", watched)
    prompts, streams = requests(60, 4)
    decode(qwen3(), prompts, streams, Sampling(max_tokens=70, stop_ids=STOPS, slots=16), static=True)
    assert sorted(places) == [8, 16]
    assert all(len(set(seen)) == 1 for seen in places.values())
    # Long enough that the ring of 128 columns went round.
    assert len(places[16]) > 128


def test_a_step_does_not_look_at_its_data():
    from looking import Looks

    prompts, streams = requests(3, 1)
    model, seen = qwen3(), Looks()
    book = Book(streams, Sampling(max_tokens=30, stop_ids=STOPS))
    with torch.inference_mode():
        fresh = _prefill(model, prompts, [0, 1, 2], book)
        state = graphs._empty(fresh, 3, 64, 4)
        graphs._place(state, fresh, np.arange(3), 0)
        with seen:
            graphs.static_step(model, state, book.sampling)
    assert seen.seen == []
    assert state.cursor_1.tolist() == state.tick_1.tolist() == [1]


def test_idle_rows_stay_inside_the_ring():
    """A row that the host has not yet seen finish goes on, but not to positions the model may not know."""
    prompts, streams = requests(3, 1)
    model, book = qwen3(), Book(streams, Sampling(max_tokens=30, stop_ids=STOPS))
    with torch.inference_mode():
        fresh = _prefill(model, prompts, [0, 1, 2], book)
        state = graphs._empty(fresh, 3, 16, 4)
        graphs._place(state, fresh, np.arange(3), 0)
        for _ in range(20):
            graphs.static_step(model, state, book.sampling)
    assert state.length_R.tolist() == [15, 15, 15]


@pytest.mark.parametrize("ahead", [1, 3, 70])
def test_the_host_may_look_as_rarely_as_it_likes(ahead):
    prompts, streams = requests(6, 2)
    sampling = Sampling(max_tokens=70, stop_ids=STOPS, slots=5)
    model, book = qwen3(), Book(streams, sampling)
    with torch.inference_mode():
        graphs.decode_static(model, prompts, book, prefill=_prefill, ahead=ahead)
    answers = decode(model, prompts, streams, sampling, static=False)
    assert [book.answers[i].ids for i in range(12)] == [answer.ids for answer in answers]


def test_a_failing_capture_is_noted_and_steps_run_uncaptured(monkeypatch):
    """Streams are stood in for, so the warm-up really runs here, and must leave no trace."""

    def fails(graph):
        raise RuntimeError("operation not permitted when stream is capturing")

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, stand_in in {
        "CUDAGraph": object,
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": nullcontext,
        "graph": fails,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(graphs, "_capturable", lambda state: True)
    prompts, streams = requests(2, 2)
    sampling = Sampling(max_tokens=20, stop_ids=STOPS)
    model = qwen3()
    with pytest.warns(UserWarning, match="without CUDA graphs, since capture failed"):
        noted = decode(model, prompts, streams, sampling, static=True)
    assert [answer.ids for answer in noted] == [a.ids for a in decode(model, prompts, streams, sampling, static=False)]


def test_models_with_windows_keep_growing_shapes():
    from test_decoder import family

    model = family("mistral-sliding")
    assert not graphs.understands(model)
    assert graphs.understands(qwen3())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answers = [decode(model, [[4, 5]], [3], Sampling(max_tokens=30, stop_ids=()), static=s)[0].ids for s in (0, 1)]
    assert answers[0] == answers[1]


def test_weights_that_are_not_numbers_stop_it():
    model = qwen3()
    answer = decode(model, [[4, 5]], [0], Sampling(max_tokens=6, stop_ids=()))[0]
    bad = next(token for token in answer.ids[:-1] if token not in (4, 5))
    with torch.no_grad():
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
        model.model.embed_tokens.weight[bad] = float("nan")
    with pytest.raises(TrainingError, match=f"request 0, answer token {answer.ids.index(bad) + 1}:"):
        decode(model, [[4, 5]], [0], Sampling(max_tokens=6, stop_ids=()), static=True)
