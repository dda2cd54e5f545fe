"""What answers: a Hugging Face model or a run's checkpoint decoded here; `endpoint` has servers, `with_vllm` vLLM."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from forkpoint.errors import InputError
from forkpoint.evaluate.benchmark import Drawing
from forkpoint.rollouts import Prompt
from forkpoint.seeds import key
from forkpoint.train.locate import model_path

if TYPE_CHECKING:
    from forkpoint.decode.answers import Sampling


@dataclass(frozen=True, kw_only=True)
class Request:
    """One answer that is wanted."""

    prompt: Prompt
    sample: int
    stream: int
    """Key of its draws: a function of seed, problem id and sample, so that no other answer matters."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One answer. What a source does not say is None."""

    text: str
    finish: str
    """`stop`, `length`, or what the source says."""
    length: int | None = None
    """Tokens, the end token included."""
    ids: Sequence[int] | None = None
    tokens: Sequence[str] | None = None
    logp: Sequence[float] | None = None
    entropy: Sequence[float] | None = None
    """Nats, a token each."""
    entropy_kind: str | None = None
    """`exact` or `lower-bound`."""


@dataclass(frozen=True, kw_only=True)
class Answerer:
    """A source of answers, and what of it moves a score."""

    name: str
    answer: Callable[[Iterator[Request]], Iterator[tuple[Request, Drawn]]]
    """Takes requests as it can and yields answers as they come, in any order."""
    engine: str
    engine_version: str | None = None
    dtype: str | None = None
    parallelism: str | None = None
    template: str = "none"
    """How a problem becomes what the model reads: `chat`, `none`, or a text with {question}."""


@dataclass(frozen=True, kw_only=True)
class LocalSettings:
    """How a model is loaded and decoded here."""

    template: str = "auto"
    """See `forkpoint.tasks.prompts`."""
    slots: int = 64
    """Answers decoded at once."""
    dtype: str = "auto"
    """`auto`: bfloat16 on cuda, else float32."""
    device: str = "auto"
    threads: int = 0
    stop: tuple[str, ...] = ()
    revision: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise InputError(f"--slots {self.slots} decodes nothing: give 1 or more")
        if self.dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise InputError(f"--dtype {self.dtype!r} is none of auto, float32, bfloat16, float16")


def requests(prompts: Sequence[Prompt], samples: int, seed: int, done: set[tuple[str, int]]) -> Iterator[Request]:
    """Yield the answers that are still wanted, problem by problem.

    >>> [(r.prompt.id, r.sample) for r in requests([Prompt(id="a", text="?")], 3, 0, {("a", 1)})]
    [('a', 0), ('a', 2)]
    """
    for prompt in prompts:
        for sample in range(samples):
            if (prompt.id, sample) not in done:
                yield Request(prompt=prompt, sample=sample, stream=key(seed, "eval", prompt.id, sample))


def open_local(path: str, settings: LocalSettings | None = None) -> Callable[[Drawing], Answerer]:
    """Load a model that is decoded here: a folder, a hub name, or a run directory (its newest checkpoint).

    Returns:
        A function from how answers are drawn to the source of answers; it raises `InputError` where answers could
        become longer than the model reads.

    Raises:
        InputError: model or tokenizer cannot be used.
    """
    from forkpoint.model import load_model, pick_device, use_threads
    from forkpoint.tasks.prompts import load_tokenizer

    how = settings or LocalSettings()
    folder = model_path(path)
    device = pick_device(how.device)
    dtype = ("bfloat16" if device.type == "cuda" else "float32") if how.dtype == "auto" else how.dtype
    threads = use_threads(how.threads)
    tokenizer = load_tokenizer(folder, revision=how.revision, trust_remote_code=how.trust_remote_code)
    model = load_model(
        folder, dtype=dtype, device=device, revision=how.revision, trust_remote_code=how.trust_remote_code
    )
    where = f"1 {device.type}, {how.slots} slots" + (f", {threads} threads" if device.type == "cpu" else "")

    def drawing_from(drawing: Drawing) -> Answerer:
        return local_answerer(model, tokenizer, drawing, how, name=folder, dtype=dtype, parallelism=where)

    return drawing_from


def local_answerer(
    model: Any,
    tokenizer: Any,
    drawing: Drawing,
    settings: LocalSettings,
    *,
    name: str,
    dtype: str | None = None,
    parallelism: str | None = None,
) -> Answerer:
    """Return a loaded model as a source of answers.

    Raises:
        InputError: answers could become longer than the model reads. While drawing: a problem is too long.
    """
    import torch

    from forkpoint.decode.decoder import decode

    room = room_of(model.config, drawing, name)
    sampling = sampling_of(tokenizer, getattr(model, "generation_config", None), drawing, settings)
    draw = functools.partial(decode, model)
    return Answerer(
        name=name, engine="forkpoint", engine_version=f"torch {torch.__version__}", dtype=dtype,
        # Twice the slots: as one answer ends the next can begin, and little is lost when the evaluation is stopped.
        answer=answering(draw, tokenizer, sampling, settings, room=room, part=2 * settings.slots, kind="exact"),
        parallelism=parallelism, template=template_of(tokenizer, settings),
    )  # fmt: skip


def room_of(config: Any, drawing: Drawing, name: str) -> int:
    """Return how many tokens a problem may have.

    Raises:
        InputError: answers alone could become longer than the model reads.
    """
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    if longest and drawing.max_tokens >= longest:
        raise InputError(
            f"{name} reads {longest} tokens, problem and answer together, and answers may have {drawing.max_tokens}: "
            "lower --max-tokens"
        )
    return longest - drawing.max_tokens if longest else 1 << 20


def sampling_of(tokenizer: Any, generation_config: Any, drawing: Drawing, settings: LocalSettings) -> Sampling:
    """Return how answers are drawn, as decoders take it."""
    from forkpoint.decode.answers import Sampling
    from forkpoint.tasks.prompts import end_token_ids, stop_text

    return Sampling(
        max_tokens=drawing.max_tokens,
        stop_ids=end_token_ids(tokenizer, generation_config, settings.stop),
        temperature=drawing.temperature,
        top_p=drawing.top_p,
        slots=settings.slots,
        stop_text=stop_text(tokenizer, settings.stop),
    )


def template_of(tokenizer: Any, settings: LocalSettings) -> str:
    """Return how a problem becomes what the model reads, for the record."""
    chat = "chat" if tokenizer.chat_template else "none"
    return chat if settings.template == "auto" else settings.template


def answering(
    draw: Callable[..., list[Any]], tokenizer: Any, sampling: Sampling, settings: LocalSettings, *, room: int,
    part: int, kind: str | None,
) -> Callable[[Iterator[Request]], Iterator[tuple[Request, Drawn]]]:  # fmt: skip
    """Return a decoder as what answers requests.

    Args:
        draw: `(prompts, streams, sampling)` -> answers.
        tokenizer: of the model.
        sampling: how tokens are drawn.
        settings: the template.
        room: most tokens of a problem.
        part: answers asked for at a time.
        kind: what the entropies are; None where log-probs and entropies are of no use, and left out.
    """
    from forkpoint.tasks.prompts import encode_prompts, token_text

    word = token_text(tokenizer)

    def answer(wanted: Iterator[Request]) -> Iterator[tuple[Request, Drawn]]:
        while asked := list(islice(wanted, part)):
            encoded = encode_prompts([r.prompt for r in asked], tokenizer, template=settings.template, max_tokens=room)
            answers = draw(encoded, [request.stream for request in asked], sampling)
            shown = [a.ids[:-1] if a.ids[-1] in sampling.stop_ids else a.ids for a in answers]
            texts = tokenizer.batch_decode(shown, skip_special_tokens=True)
            for request, one, text in zip(asked, answers, texts, strict=True):
                yield request, Drawn(
                    text=text, finish=one.finish, length=len(one.ids), ids=one.ids,
                    tokens=[word(token) for token in one.ids], logp=one.logp if kind else None,
                    entropy=one.entropy if kind else None, entropy_kind=kind,
                )  # fmt: skip

    return answer
