"""A server that speaks the OpenAI protocol, as a source of answers: several requests at once, each retried."""

from __future__ import annotations

import http.client
import json
import os
import queue
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np

from forkpoint.entropy.bound import entropy_lower_bound
from forkpoint.errors import InputError, TrainingError
from forkpoint.evaluate.benchmark import Drawing
from forkpoint.evaluate.sources import Answerer, Drawn, Request

RETRIED = (408, 409, 425, 429)
"""Statuses besides 5xx after which the same request may succeed."""
MOST_LIKELY = 20
"""Likely tokens that the protocol lets a request ask for."""
LONGEST_WAIT = 60.0
"""Seconds between two attempts at most."""


@dataclass(frozen=True, kw_only=True)
class EndpointSettings:
    """How a server is asked."""

    model: str | None = None
    """Its name for the model; the only one it lists where not given."""
    api: Literal["chat", "completions"] = "chat"
    concurrency: int = 16
    """Requests under way at once."""
    attempts: int = 6
    """How often one request is tried."""
    wait: float = 1.0
    """Seconds before the second attempt; they double with every further one."""
    timeout: float = 1800.0
    """Seconds without a byte after which a connection counts as lost."""
    top_logprobs: int = 0
    """Likely tokens to ask for at every position, for lower bounds of the entropy; 0 asks for none."""
    key: str = "OPENAI_API_KEY"
    """Environment variable that holds the key, if there is one."""

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.attempts < 1:
            raise InputError(f"a server is asked with at least 1 request at once, each tried at least once, not with "
                             f"{self.concurrency} and {self.attempts}: raise --concurrency")  # fmt: skip
        if not 0 <= self.top_logprobs <= MOST_LIKELY:
            raise InputError(
                f"--top-logprobs {self.top_logprobs}: servers give 0 to {MOST_LIKELY} likely tokens a position"
            )


class _DroppedError(Exception):
    """A request that may succeed when it is tried again."""

    def __init__(self, why: str, after: float = 0.0) -> None:
        super().__init__(why)
        self.after = after


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Refuse: a redirect would carry the key to another host."""


_OPENER = urllib.request.build_opener(_NoRedirect)


def is_url(target: str) -> bool:
    """Return whether an argument names a server and not a folder.

    >>> is_url("http://localhost:8000/v1"), is_url("Qwen/Qwen3-0.6B")
    (True, False)
    """
    return target.startswith(("http://", "https://"))


def open_endpoint(url: str, settings: EndpointSettings | None = None) -> Callable[[Drawing], Answerer]:
    """Return a server as a function from how answers are drawn to a source of answers.

    Args:
        url: base of the protocol, such as `http://localhost:8000/v1`.
        settings: how the server is asked.

    Raises:
        InputError: it is no URL, it has no such model, or several and none was named.
        TrainingError: it cannot be reached.
    """
    how = settings or EndpointSettings()
    base = _checked(url).rstrip("/").removesuffix("/completions").removesuffix("/chat")
    model = how.model or _only_model(base, how)

    def drawing_from(drawing: Drawing) -> Answerer:
        def answer(wanted: Iterator[Request]) -> Iterator[tuple[Request, Drawn]]:
            return _all(base, model, drawing, how, wanted)

        return Answerer(
            name=model, answer=answer, engine=f"OpenAI-compatible server, {how.api}", template="of the server",
            parallelism=f"{how.concurrency} requests at once",
        )  # fmt: skip

    return drawing_from


def _checked(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"{url} is no URL ({error}): give one such as http://localhost:8000/v1") from error
    if not host:
        raise InputError(f"{url} names no host: give a URL such as http://localhost:8000/v1")
    if parts.username is not None:
        raise InputError(f"a URL of {host} with a name and password in it: leave them out, and put the key into "
                         "OPENAI_API_KEY")  # fmt: skip
    return url


def body(request: Request, model: str, drawing: Drawing, how: EndpointSettings) -> dict[str, Any]:
    """Return what is sent for one answer."""
    asked: dict[str, Any] = {
        "model": model, "temperature": drawing.temperature, "top_p": drawing.top_p,
        "max_tokens": drawing.max_tokens, "seed": request.stream & 0x7FFFFFFF,
    }  # fmt: skip
    if how.api == "chat":
        messages = request.prompt.messages or ({"role": "user", "content": request.prompt.text},)
        asked["messages"] = list(messages)
        asked |= {"logprobs": True, "top_logprobs": how.top_logprobs} if how.top_logprobs else {}
    else:
        asked["prompt"] = request.prompt.text
        asked |= {"logprobs": how.top_logprobs} if how.top_logprobs else {}
    return asked


def drawn(reply: Mapping[str, Any], top: int) -> Drawn:
    """Return the answer in a reply of either kind.

    Args:
        reply: the JSON body.
        top: how many likely tokens were asked for.

    Raises:
        KeyError, TypeError, IndexError, ValueError: it is no such reply.
    """
    choice = reply["choices"][0]
    message = choice.get("message")
    text = choice["text"] if message is None else message.get("content")
    thought = (message or {}).get("reasoning_content")
    tokens, logp, likely = _logprobs(choice.get("logprobs"))
    usage = reply.get("usage") or {}
    length = usage.get("completion_tokens", len(tokens) if tokens else None)
    bounded = bool(tokens) and any(likely)
    return Drawn(
        text=(f"<think>{thought}</think>" if thought else "") + str(text or ""),
        finish=str(choice.get("finish_reason") or "unknown"),
        length=None if length is None else int(length),
        tokens=tokens or None,
        logp=logp or None,
        entropy=_bounds(tokens, logp, likely, top) if bounded else None,
        entropy_kind="lower-bound" if bounded else None,
    )


def _logprobs(said: Any) -> tuple[list[str], list[float], list[dict[str, float]]]:
    """Return tokens, log-probs and likely tokens by position, from either form; empty where not given."""
    if not said:
        return [], [], []
    if "content" in said:  # chat
        entries = said["content"] or []
        likely = [{one["token"]: float(one["logprob"]) for one in e.get("top_logprobs") or ()} for e in entries]
        return [str(e["token"]) for e in entries], [float(e["logprob"]) for e in entries], likely
    logp = [float("nan") if value is None else float(value) for value in said["token_logprobs"]]
    given = said.get("top_logprobs") or [None] * len(logp)
    return [str(t) for t in said["tokens"]], logp, [{k: float(v) for k, v in (one or {}).items()} for one in given]


def _bounds(
    tokens: Sequence[str], logp: Sequence[float], likely: Sequence[Mapping[str, float]], top: int
) -> list[float]:
    values: list[float] = []
    is_likely: list[bool] = []
    offsets = [0]
    for token, own, others in zip(tokens, logp, likely, strict=True):
        ranked = sorted(others.values(), reverse=True)
        values += ranked
        # Some servers append the sampled token to the likely ones.
        is_likely += [place < max(top, 1) for place in range(len(ranked))]
        if token not in others:
            values.append(own)
            is_likely.append(False)
        offsets.append(len(values))
    return entropy_lower_bound(np.array(values), np.array(offsets), np.array(is_likely, dtype=bool)).tolist()


def _all(
    base: str, model: str, drawing: Drawing, how: EndpointSettings, wanted: Iterator[Request]
) -> Iterator[tuple[Request, Drawn]]:
    """Ask for every answer with some threads, and yield answers as they come."""
    stop = threading.Event()
    asked: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
    told: queue.SimpleQueue[tuple[Request, Drawn | BaseException]] = queue.SimpleQueue()

    def work() -> None:
        while (request := asked.get()) is not None:
            try:
                told.put((request, _ask(base, model, request, drawing, how, stop)))
            except BaseException as error:  # it is raised where the answers are read
                told.put((request, error))

    # Daemons: a connection that hangs must not keep a stopped evaluation alive.
    for _ in range(how.concurrency):
        threading.Thread(target=work, daemon=True).start()
    under_way = 0
    failed: BaseException | None = None
    try:
        while True:
            for request in islice(wanted, how.concurrency - under_way if failed is None else 0):
                asked.put(request)
                under_way += 1
            if not under_way or (failed is not None and told.empty()):
                break
            request, found = told.get()
            under_way -= 1
            if isinstance(found, BaseException):
                failed = failed or found
            else:
                yield request, found
        if failed is not None:
            raise failed
    finally:
        stop.set()
        for _ in range(how.concurrency):
            asked.put(None)


def _ask(
    base: str, model: str, request: Request, drawing: Drawing, how: EndpointSettings, stop: threading.Event
) -> Drawn:
    """Return one answer, after as many attempts as it takes and is allowed."""
    url = f"{base}/chat/completions" if how.api == "chat" else f"{base}/completions"
    sent = json.dumps(body(request, model, drawing, how)).encode()
    for attempt in range(1, how.attempts + 1):
        try:
            return _parsed(_exchange(url, sent, how), how, f"problem {request.prompt.id!r}")
        except _DroppedError as error:
            if attempt == how.attempts:
                raise TrainingError(
                    f"{base} gave no answer to problem {request.prompt.id!r} in {attempt} attempts (the last: {error})"
                ) from error
            if stop.wait(min(max(error.after, how.wait * 2 ** (attempt - 1)), LONGEST_WAIT)):
                raise TrainingError("stopped") from error
    raise AssertionError("unreachable: the last attempt returns or raises")


def _parsed(reply: Any, how: EndpointSettings, what: str) -> Drawn:
    try:
        return drawn(reply, how.top_logprobs)
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        said = json.dumps(reply)[:200]
        raise InputError(f"the server's reply to {what} is no {how.api} completion: {said}") from error


def _exchange(url: str, sent: bytes | None, how: EndpointSettings) -> Any:
    """Return the JSON a server replies with.

    Raises:
        InputError: it refuses the request.
        _DroppedError: anything that may be different the next time.
    """
    headers = {"Content-Type": "application/json"}
    if secret := os.environ.get(how.key):
        headers["Authorization"] = f"Bearer {secret}"
    request = urllib.request.Request(url, data=sent, headers=headers)  # noqa: S310 - `is_url` let it through
    try:
        with _OPENER.open(request, timeout=how.timeout) as reply:
            return json.loads(reply.read())
    except urllib.error.HTTPError as error:
        why = f"status {error.code}"
        if error.code >= 500 or error.code in RETRIED:
            raise _DroppedError(why, _after(error.headers.get("Retry-After"))) from error
        said = error.read(2000).decode("utf-8", "replace")
        raise InputError(f"{url} refuses the request with {why}: {said[:300]!r}") from error
    except urllib.error.URLError as error:
        raise _DroppedError(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _DroppedError(str(error) or type(error).__name__) from error
    except ValueError as error:
        raise _DroppedError("a reply that is no JSON") from error


def _after(said: str | None) -> float:
    """Return the seconds a server asks to wait; a date counts as nothing said."""
    try:
        return max(float(said or 0), 0.0)
    except ValueError:
        return 0.0


def _only_model(base: str, how: EndpointSettings) -> str:
    try:
        listed = [str(one["id"]) for one in _exchange(f"{base}/models", None, how)["data"]]
    except _DroppedError as error:
        raise TrainingError(f"{base} cannot be reached ({error}): check the URL and that the server runs") from error
    except (KeyError, TypeError) as error:
        raise InputError(f"{base}/models lists no models: name the model with --model") from error
    if len(listed) != 1:
        raise InputError(f"{base} has {len(listed)} models: name one with --model ({', '.join(listed[:10])})")
    return listed[0]
