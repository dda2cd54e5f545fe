"""How answers are drawn, and the host's record of what has been written so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forkpoint.errors import InputError, TrainingError
from forkpoint.model import HeadKind
from forkpoint.seeds import uniforms

BLOCK = 64
"""Uniforms are drawn in blocks of this many tokens a row."""


@dataclass(frozen=True, kw_only=True)
class TwoTemperatures:
    """One temperature for forking tokens and one for all others (arXiv 2506.01939, figure 3)."""

    threshold: float
    """Nats: tokens whose entropy at temperature 1 is above this are forks."""
    fork: float
    """>= 0; 0 takes the most likely token."""
    other: float
    """>= 0."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        for name in ("fork", "other"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise InputError(f"the temperature of {name} tokens is {value} and must be a number >= 0")
        if math.isnan(self.threshold):
            raise InputError("the threshold between fork and other tokens is not a number")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn."""

    max_tokens: int
    """Longest answer, in tokens."""
    stop_ids: tuple[int, ...]
    """Ids that end an answer; the end token is part of the answer."""
    temperature: float = 1.0
    """> 0; log-probs and entropies are those of softmax(logits / temperature). 0 is greedy, measured at 1."""
    top_p: float = 1.0
    """In (0, 1]."""
    top_k: int = 0
    """0 keeps all tokens."""
    slots: int = 256
    """Rows decoded at once."""
    stop_text: Callable[[list[int]], bool] | None = None
    """Called with the answer so far after every token when given; true ends it."""
    head: HeadKind = "fused"
    """`plain` asks the model itself for its logits."""
    two: TwoTemperatures | None = None
    """Draw at two temperatures, told apart by entropy. For looking, not for learning: log-probs and entropies stay
    those at temperature 1, which is then not what drew the tokens."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if not self.temperature >= 0:
            raise InputError(f"temperature is {self.temperature} and must be >= 0")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p} and must be in (0, 1]")
        if self.two is not None and self.temperature != 1:
            raise InputError(f"two temperatures replace the one: leave temperature at 1, it is {self.temperature}")
        if self.top_k < 0 or self.max_tokens < 1 or self.slots < 1:
            raise InputError("top_k must be >= 0, max_tokens and slots >= 1")


class NotFiniteError(TrainingError):
    """The model's logits are NaN or infinite, so nothing can be drawn from them."""

    def __init__(self, *, request: int, token: int, what: str = "") -> None:
        super().__init__(
            f"the logits are not finite for {what or f'request {request}'}, answer token {token}: the weights have "
            "diverged or are damaged; lower the learning rate or go back to an earlier checkpoint"
        )
        self.request = request
        self.token = token


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One sampled answer."""

    ids: list[int]
    logp: list[float]
    entropy: list[float]
    finish: str
    """`stop` or `length`."""


class Book:
    """What the host knows of N requests: their tokens so far, and the uniforms that will draw the next ones.

    Args:
        streams: one random stream a request.
        sampling: how tokens are drawn.
        progress: called with (finished, total) after every finished answer.
    """

    def __init__(
        self, streams: Sequence[int], sampling: Sampling, progress: Callable[[int, int], None] | None = None
    ) -> None:
        N, T = len(streams), sampling.max_tokens
        self.streams, self.sampling, self.progress = streams, sampling, progress
        self.answers: dict[int, Answer] = {}
        self.written_N = np.zeros(N, dtype=np.int64)
        self._values_3NT = np.empty((3, N, T), dtype=np.float32)
        self._uniform_NU = np.empty((N, BLOCK))
        self._stops = np.array(sampling.stop_ids, dtype=np.int64)

    def uniforms(self, request_R: NDArray[np.int64], ahead: int = 0) -> NDArray[np.float64]:
        """Return the uniform that draws each request's next token, or the one `ahead` tokens later."""
        at_R = self.written_N[request_R] + ahead
        inside_R = at_R % BLOCK
        for row in (inside_R == 0).nonzero()[0]:
            request = int(request_R[row])
            self._uniform_NU[request] = uniforms(self.streams[request], int(at_R[row]) // BLOCK, BLOCK)
        return self._uniform_NU[request_R, inside_R]

    def record(self, request_R: NDArray[np.int64], drawn_3R: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Write down one drawn token (id, log-prob, entropy) a request and return which answers that ends.

        Raises:
            NotFiniteError: a log-prob or entropy is not a number.
        """
        at_R = self.written_N[request_R]
        finite_R = np.isfinite(drawn_3R).all(0)
        if not finite_R.all():
            row = int((~finite_R).argmax())
            raise NotFiniteError(request=int(request_R[row]), token=int(at_R[row]))
        self._values_3NT[:, request_R, at_R] = drawn_3R
        self.written_N[request_R] = at_R + 1
        stopped_R = (drawn_3R[0][:, None] == self._stops).any(1)
        if self.sampling.stop_text is not None:
            for row in (~stopped_R).nonzero()[0].tolist():
                stopped_R[row] = self.sampling.stop_text(self._ids(int(request_R[row])))
        over_R: NDArray[np.bool_] = stopped_R | (at_R + 1 >= self.sampling.max_tokens)
        for row in over_R.nonzero()[0].tolist():
            self._finish(int(request_R[row]), "stop" if stopped_R[row] else "length")
        return over_R

    def _ids(self, request: int) -> list[int]:
        ids: list[int] = self._values_3NT[0, request, : self.written_N[request]].astype(np.int64).tolist()
        return ids

    def _finish(self, request: int, finish: str) -> None:
        _, logp_T, entropy_T = self._values_3NT[:, request, : self.written_N[request]]
        self.answers[request] = Answer(
            ids=self._ids(request), logp=logp_T.tolist(), entropy=entropy_T.tolist(), finish=finish
        )
        if self.progress is not None:
            self.progress(len(self.answers), len(self.streams))
