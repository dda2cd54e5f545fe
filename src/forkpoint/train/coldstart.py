"""A supervised run on a file of texts or chats, with the run directory and checkpoints of any other run.

The cold start of arXiv 2506.01939 for models that reinforcement learning alone does not lift.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from forkpoint.errors import InputError, TrainingError
from forkpoint.model import HeadKind, load_model, pick_device, use_threads
from forkpoint.tasks.prompts import load_tokenizer
from forkpoint.train.checkpoint import load_checkpoint, restore_model, restore_optimizer, save_checkpoint
from forkpoint.train.console import make_console
from forkpoint.train.examples import Example, bucketed, read_examples, shuffled
from forkpoint.train.runlog import append_metrics, open_run, write_recipe_json
from forkpoint.train.sft import SftState, adamw, negative_log_likelihood, sft
from forkpoint.train.weigh import Weigh, selection_of


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """Settings of a supervised run."""

    data: str
    """JSONL: `text`, or `prompt` and `response`, or `messages` a line."""
    model: str
    """Directory or hub name to start from."""
    steps: int
    """Updates to make."""
    rows: int = 32
    """Examples an update."""
    lr: float = 1e-5
    """Peak learning rate; it rises over `warmup` updates and falls with a cosine."""
    warmup: int = 0
    """Updates."""
    weight_decay: float = 0.0
    """Decoupled, on matrices."""
    max_tokens: int = 16384
    """Padded tokens in one forward and backward pass; does not change the result."""
    max_length: int | None = None
    """Longest example in tokens; a longer one is an error that names its line."""
    every: int = 100
    """Updates between checkpoints; the last one always writes one."""
    keep: int = 2
    """Newest checkpoints to keep."""
    select: str = "all"
    """`all` tokens count alike, or `entropy-sft` or `forking`: see `forkpoint.train.weigh`."""
    share: float | None = None
    """Of the tokens that a selection keeps; None is the selection's own."""
    kappa: float | None = None
    """Of `entropy-sft`."""
    rest: float | None = None
    """Of `forking`: weight of the other tokens."""
    leave_out: tuple[int, ...] = ()
    """Ids that never count, such as rock tokens."""
    head: HeadKind = "fused"
    """`plain` for models whose logits are more than a linear layer with soft-cap or scaling."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `mps`."""
    threads: int = 0
    """CPU threads; 0 is the cores this process may use."""
    seed: int = 0
    """Of the order of the examples."""

    def __post_init__(self) -> None:
        for name in ("steps", "rows", "max_tokens", "every", "keep"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)} and must be at least 1")
        if self.threads < 0:
            raise InputError(f"threads is {self.threads} and must be at least 0, where 0 is every core")
        if self.head not in get_args(HeadKind):
            raise InputError(f"head {self.head!r} is none of {', '.join(get_args(HeadKind))}")
        if not self.lr > 0:
            raise InputError(f"lr is {self.lr} and must be greater than 0")
        self.weigh()

    def weigh(self) -> Weigh | None:
        """Return the weights of tokens; None where all count alike."""
        return selection_of(self.select, share=self.share, kappa=self.kappa, rest=self.rest, leave_out=self.leave_out)


def cold_start(settings: ColdStart, *, run_dir: Path, resume: bool = False, fresh: bool = False) -> Path:
    """Train, write the run directory and return the last checkpoint, which is a model directory.

    Args:
        settings: what to train on and how.
        run_dir: where the run writes.
        resume: go on from the newest checkpoint, or from the start where there is none.
        fresh: move a run that is already there aside.

    Raises:
        InputError: model, tokenizer or data cannot be used, or a run is in the way.
        TrainingError: the run had to stop; everything written so far is intact.
    """
    threads, device = use_threads(settings.threads), pick_device(settings.device)
    tokenizer = load_tokenizer(settings.model)
    examples = read_examples(settings.data, tokenizer, max_length=settings.max_length)
    batches = bucketed(shuffled(examples, settings.seed), rows=settings.rows, max_tokens=settings.max_tokens)
    model = load_model(settings.model, device=device, head=settings.head)
    state = SftState(step=0, optimizer=adamw(model, weight_decay=settings.weight_decay))
    found = open_run(run_dir, "resume" if resume else "fresh" if fresh else "new")
    table = {"sft": dataclasses.asdict(settings)}
    if found is None:
        name = f"{device.type}, {threads} threads, float32"
        write_recipe_json(run_dir, recipe=table, chain=[], device=name, seed=settings.seed)
    else:
        state = _restored(found, model, state, settings)
    console = make_console(settings.steps)
    console.note(_amount(examples, settings))
    last = found

    def log(metrics: Mapping[str, float]) -> None:
        append_metrics(run_dir, metrics)
        console.step(metrics)

    def after_step(now: SftState) -> None:
        nonlocal last
        if now.step % settings.every == 0 or now.step == settings.steps:
            last = save_checkpoint(
                run_dir, now.step, model=model, tokenizer=tokenizer, optimizer=now.optimizer,
                state=_fingerprint(settings), tensors={}, keep=settings.keep,
            )  # fmt: skip

    try:
        sft(
            model, batches, steps=settings.steps, lr=settings.lr, warmup=settings.warmup,
            log=log, state=state, after_step=after_step, loss=partial(negative_log_likelihood, head=settings.head),
            weigh=settings.weigh(), head=settings.head,
        )  # fmt: skip
    finally:
        console.close()
    if last is None:
        raise TrainingError(f"{run_dir} has no checkpoint after the last update")
    return last


def _amount(examples: Sequence[Example], settings: ColdStart) -> str:
    """Return how much there is to learn from and how often it is read."""
    tokens = sum(len(example.ids) - example.start for example in examples)
    passes = settings.steps * settings.rows / len(examples)
    return (
        f"{len(examples):,} examples with {tokens:,} tokens to learn from; {settings.steps:,} updates of "
        f"{settings.rows} are {passes:.3g} passes over them"
    )


def read_ids(path: str | Path) -> tuple[int, ...]:
    """Return token ids from a JSON list.

    Raises:
        InputError: the file cannot be read or holds anything else.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as a JSON list of token ids: {error}") from error
    if not isinstance(found, list) or not all(type(x) is int and x >= 0 for x in found):
        raise InputError(f"{path} must hold a JSON list of token ids, whole numbers from 0: [198, 271]")
    return tuple(found)


def _restored(path: Path, model: Any, state: SftState, settings: ColdStart) -> SftState:
    checkpoint = load_checkpoint(path)
    there, here = dict(checkpoint.state), _fingerprint(settings)
    if there != here:
        names = [name for name in sorted(there | here) if there.get(name) != here.get(name)]
        raise InputError(
            f"checkpoint {path} was made with other settings or data than these "
            f"({', '.join(f'{name}: {there.get(name)} there, {here.get(name)} here' for name in names)}): resume with "
            "those of the run's recipe.json, or give --fresh"
        )
    restore_model(model, checkpoint)
    restore_optimizer(state.optimizer, model, checkpoint)
    return SftState(step=checkpoint.step, optimizer=state.optimizer)


def _fingerprint(settings: ColdStart) -> dict[str, Any]:
    """Return what must stay the same for a resumed run to be the same run."""
    names = ("rows", "lr", "warmup", "weight_decay", "seed", "steps", "max_length")
    kept = {name: getattr(settings, name) for name in names} | {"data": Path(settings.data).name}
    if settings.weigh() is None:
        return kept
    chosen = {name: getattr(settings, name) for name in ("select", "share", "kappa", "rest")}
    return kept | chosen | {"leave_out": list(settings.leave_out)}
