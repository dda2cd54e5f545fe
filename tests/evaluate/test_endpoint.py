"""Servers as sources of answers, against a real socket: what is sent, what is read, and what happens when it fails."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from forkpoint.errors import InputError, TrainingError
from forkpoint.evaluate import endpoint
from forkpoint.evaluate.benchmark import Drawing
from forkpoint.evaluate.endpoint import EndpointSettings, drawn, open_endpoint
from forkpoint.evaluate.sources import requests
from forkpoint.rollouts import Prompt
from openai_double import chat, serving

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
PROMPTS = tuple(
    Prompt(id=name, text=f"ask {name}", messages=({"role": "user", "content": f"ask {name}"},)) for name in "abc"
)
DRAWING = Drawing(samples=2, temperature=0.5, top_p=0.9, max_tokens=77)


def ask(double, drawing=DRAWING, prompts=PROMPTS, **settings):
    quick = EndpointSettings(**{"wait": 0.001, "concurrency": 2, "timeout": 10, **settings})
    answerer = open_endpoint(double.url, quick)(drawing)
    return list(answerer.answer(requests(prompts, drawing.samples, 3, set())))


def test_what_is_sent_and_read():
    with serving(lambda path, body, number: chat(body["messages"][-1]["content"].upper(), "length")) as double:
        found = ask(double)
    assert sorted((r.prompt.id, r.sample, d.text) for r, d in found) == [
        (name, sample, f"ASK {name.upper()}") for name in "abc" for sample in (0, 1)
    ]
    assert {(d.finish, d.length, d.logp, d.entropy) for _, d in found} == {("length", 5, None, None)}
    path, body = double.asked[0]
    assert path == "/v1/chat/completions"
    fixed = {"model": "little", "temperature": 0.5, "top_p": 0.9, "max_tokens": 77}
    assert {name: body[name] for name in fixed} == fixed
    assert body["messages"][0]["content"].startswith("ask ")
    assert "logprobs" not in body
    assert len({body["seed"] for _, body in double.asked}) == 6
    assert {r.stream & 0x7FFFFFFF for r, _ in found} == {body["seed"] for _, body in double.asked}


def test_completions():
    def behave(path, body, number):
        return {"choices": [{"text": body["prompt"] + "!", "finish_reason": "stop"}]}

    with serving(behave) as double:
        found = ask(double, api="completions", model="named")
        assert double.asked[0][0] == "/v1/completions"
        assert double.asked[0][1]["model"] == "named"
        open_endpoint(double.url + "/chat/completions", EndpointSettings(model="m"))(DRAWING)
    assert {d.text for _, d in found} == {"ask a!", "ask b!", "ask c!"}
    assert {d.length for _, d in found} == {None}


def test_the_key_is_sent_and_only_where_there_is_one(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(lambda *_: chat("x")) as double:
        ask(double)
        assert "Authorization" not in double.headers[-1]
        monkeypatch.setenv("MINE", "secret")
        ask(double, key="MINE")
        assert double.headers[-1]["Authorization"] == "Bearer secret"


def test_dropped_connections_bad_statuses_and_cut_replies_are_tried_again():
    seen: dict[int, int] = {}
    lock = threading.Lock()
    bad = [None, (503, {}, "busy"), (429, {"Retry-After": "0"}, "slow"), (200, {}, '{"choices": [')]

    def behave(path, body, number):
        with lock:
            tried = seen[body["seed"]] = seen.get(body["seed"], -1) + 1
        return bad[tried] if tried < len(bad) else chat("done")

    with serving(behave) as double:
        found = ask(double, attempts=5)
    assert [d.text for _, d in found] == ["done"] * 6
    assert set(seen.values()) == {4}
    with serving(behave) as double:
        seen.clear()
        with pytest.raises(TrainingError, match=r"no answer to problem '.' in 4 attempts \(the last: a reply"):
            ask(double, attempts=4)


def test_waits_double_and_follow_the_server(monkeypatch):
    waits = []

    class Clock(threading.Event):
        def wait(self, timeout=None):
            waits.append(timeout)
            return False

    monkeypatch.setattr(endpoint, "threading", SimpleNamespace(Event=Clock, Thread=threading.Thread))
    replies = [None, (500, {}, ""), (429, {"Retry-After": "7"}, ""), (429, {"Retry-After": "9999"}, ""), chat("x")]
    with serving(lambda path, body, number: replies[number]) as double:
        ask(double, Drawing(samples=1), PROMPTS[:1], wait=2.0, concurrency=1)
    assert waits == [2.0, 4.0, 8.0, 60.0]


def test_what_was_answered_before_a_failure_is_handed_over():
    def behave(path, body, number):
        return chat("x") if number < 3 else None

    got = []
    with serving(behave) as double:
        answerer = open_endpoint(double.url, EndpointSettings(wait=0.001, attempts=2, concurrency=1))(DRAWING)
        with pytest.raises(TrainingError):
            got.extend(answerer.answer(requests(PROMPTS, 2, 3, set())))
    assert len(got) == 3


@pytest.mark.parametrize(
    ("reply", "error", "said"),
    [
        (
            (400, {}, '{"error": "prompt too long"}'),
            InputError,
            "with status 400: .*prompt too long",
        ),
        ((401, {}, "no key"), InputError, "status 401"),
        ((302, {"Location": "http://127.0.0.1:1/"}, ""), InputError, "status 302"),
        ({"error": "bad"}, InputError, r"reply to problem '.' is no chat completion: .*bad"),
        ({"choices": []}, InputError, "is no chat completion"),
    ],
)
def test_refusals_are_not_tried_again(reply, error, said):
    with serving(lambda *_: reply) as double:
        with pytest.raises(error, match=said):
            ask(double, concurrency=1)
        assert len(double.asked) == 1


def test_no_more_than_so_many_at_once():
    under_way, most, lock = [0], [0], threading.Lock()
    gate = threading.Barrier(3, timeout=5)

    def behave(path, body, number):
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        gate.wait()
        with lock:
            under_way[0] -= 1
        return chat("x")

    with serving(behave) as double:
        assert len(ask(double, concurrency=3)) == 6
    assert most[0] == 3


def test_requests_are_taken_as_they_can_be_sent():
    taken, most = [0], [0]

    def counted():
        for request in requests(PROMPTS, 4, 3, set()):
            taken[0] += 1
            yield request

    with serving(lambda *_: chat("x")) as double:
        answerer = open_endpoint(double.url, EndpointSettings(concurrency=2))(DRAWING)
        for number, _ in enumerate(answerer.answer(counted())):
            most[0] = max(most[0], taken[0] - number)
    assert (taken[0], most[0]) == (12, 2)


def test_models_of_the_server():
    with serving(lambda *_: chat("x"), models=("one", "two")) as double:
        with pytest.raises(InputError, match=r"has 2 models: name one with --model \(one, two\)"):
            open_endpoint(double.url)
        assert open_endpoint(double.url, EndpointSettings(model="two"))(DRAWING).name == "two"
        url = double.url
    with pytest.raises(TrainingError, match="cannot be reached"):
        open_endpoint(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://", "names no host"),
        ("http://[bad/v1", "is no URL"),
        ("http://localhost:99999/v1", "is no URL"),
        ("http://me:secret@localhost/v1", "a URL of localhost with a name and password in it"),
    ],
)
def test_addresses_are_checked(url, said):
    with pytest.raises(InputError, match=said) as error:
        open_endpoint(url)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("settings", [{"concurrency": 0}, {"attempts": 0}, {"top_logprobs": -1}, {"top_logprobs": 21}])
def test_settings_are_checked(settings):
    with pytest.raises(InputError, match=r"at least 1 request|0 to 20 likely tokens"):
        EndpointSettings(**settings)


def test_log_probs_of_a_chat_give_lower_bounds():
    half = math.log(0.5)
    both = [{"token": "a", "logprob": half}, {"token": "b", "logprob": half}]
    content = [
        {"token": "a", "logprob": half, "top_logprobs": both},
        {"token": "z", "logprob": math.log(0.1), "top_logprobs": [{"token": "a", "logprob": math.log(0.9)}]},
    ]  # fmt: skip
    found = drawn(chat("az", logprobs={"content": content}), 2)
    assert (found.tokens, found.length, found.entropy_kind) == (["a", "z"], 2, "lower-bound")
    assert found.logp == pytest.approx([half, math.log(0.1)])
    mixed = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert found.entropy == pytest.approx([math.log(2), mixed], abs=1e-6)


def test_log_probs_of_completions_and_their_absence():
    said = {"tokens": ["a", "b"], "token_logprobs": [None, -0.5], "top_logprobs": [None, {"b": -0.5}]}
    found = drawn({"choices": [{"text": "ab", "finish_reason": "stop", "logprobs": said}]}, 1)
    assert math.isnan(found.logp[0])
    assert found.logp[1] == -0.5
    assert math.isnan(found.entropy[0])
    assert found.entropy[1] > 0
    plain = drawn({"choices": [{"text": "ab", "logprobs": {"tokens": ["ab"], "token_logprobs": [-1.0]}}]}, 1)
    assert (plain.entropy, plain.entropy_kind, plain.finish) == (None, None, "unknown")


def test_thoughts_that_a_server_keeps_apart_and_an_empty_answer():
    reply = chat("7")
    reply["choices"][0]["message"]["reasoning_content"] = "hm"
    assert drawn(reply, 0).text == "<think>hm</think>7"
    reply = chat("")
    reply["choices"][0]["message"]["content"] = None
    assert drawn(reply, 0).text == ""


@pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not beside the repository")
def test_a_recorded_reply_of_openai():
    reply = json.loads((DATA / "recorded/openai_logprobs_response.json").read_text())
    reply = reply[0] if isinstance(reply, list) else reply
    found = drawn(reply, len(reply["choices"][0]["logprobs"]["content"][0].get("top_logprobs") or []))
    assert found.length == reply["usage"]["completion_tokens"] == len(found.tokens)
    assert "".join(found.tokens) == found.text
    assert all(value <= 0 for value in found.logp)
