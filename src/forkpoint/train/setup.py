"""From a recipe to the things a run works with: model, tokenizer, task, sampling, optimiser."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from forkpoint.credit.link import Chain
from forkpoint.decode.decoder import Sampling
from forkpoint.decode.rollout import EMBEDDED, Engine
from forkpoint.environment import cores
from forkpoint.errors import InputError
from forkpoint.linear import row_linears
from forkpoint.model import (
    HeadKind,
    add_lora,
    check_path,
    head_of,
    load_model,
    pick_device,
    recompute_activations,
    trainable,
    use_threads,
)
from forkpoint.rollouts import Prompt
from forkpoint.tasks.arithmetic_sequence import arithmetic_sequence_task
from forkpoint.tasks.arithmetic_sequence import judge as sequence_judge
from forkpoint.tasks.countdown import countdown_task
from forkpoint.tasks.prompts import encode_prompts, end_token_ids, load_tokenizer, stop_text
from forkpoint.tasks.readers import data_task, read_prompts
from forkpoint.tasks.task import Judge, Task
from forkpoint.train.columns import Context
from forkpoint.train.columns_program import load_program
from forkpoint.train.columns_scored import attention_layer
from forkpoint.train.packed import can_pack
from forkpoint.train.schema import LoraTable, Recipe, TaskTable
from forkpoint.verify.endings import Convention, convention
from forkpoint.verify.verifiers import VERIFIERS, make_verifier


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A model with what is needed to talk to it."""

    model: Any
    tokenizer: Any
    device: torch.device
    dtype: str
    """Of the products: `float32` or `bfloat16`."""
    threads: int
    """CPU threads in force."""
    head: HeadKind = "fused"
    """How the lm-head is computed."""
    packed: bool = False
    """Whether the update runs without padding."""
    engine: Engine = EMBEDDED
    """What samples answers."""


def load_policy(recipe: Recipe) -> Policy:
    """Return the recipe's model, ready to train: float32 weights, or frozen ones with adapters.

    Raises:
        InputError: model or tokenizer cannot be used.
    """
    table = recipe.model
    check_path(table.path)
    threads = use_threads(table.threads)
    device = pick_device(table.device)
    dtype = ("bfloat16" if device.type == "cuda" else "float32") if table.dtype == "auto" else table.dtype
    tokenizer = load_tokenizer(table.path, revision=table.revision, trust_remote_code=table.trust_remote_code)
    model = load_model(
        table.path,
        dtype=dtype if table.lora is not None else "float32",
        device=device,
        attention=table.attention,
        revision=table.revision,
        trust_remote_code=table.trust_remote_code,
        head=table.head,
    )
    if table.lora is not None:
        model = _adapted(model, table.lora, recipe.seed)
    if table.gradient_checkpointing:
        recompute_activations(model)
        if table.lora is not None:
            model.enable_input_require_grads()
    if table.head == "fused":
        head_of(model)
    if device.type == "cpu":
        row_linears(model)
    return Policy(
        model=model, tokenizer=tokenizer, device=device, dtype=dtype, threads=threads, head=table.head,
        packed=can_pack(model),
    )  # fmt: skip


def _adapted(model: Any, table: LoraTable, seed: int) -> Any:
    targets = table.targets if isinstance(table.targets, str) else list(table.targets)
    return add_lora(model, rank=table.rank, alpha=table.alpha, dropout=table.dropout, targets=targets, seed=seed)


def make_task(recipe: Recipe) -> Task:
    """Return the recipe's task.

    Raises:
        InputError: its data cannot be read.
    """
    table = recipe.task
    if table.name.startswith("countdown"):
        return countdown_task(table.name, heldout=recipe.eval.problems)
    if table.name == "arithmetic-sequence":
        if table.train is None or table.heldout is None:
            raise InputError("task 'arithmetic-sequence' needs task.train and task.heldout, two parquet files")
        return arithmetic_sequence_task(table.train, table.heldout)
    assert table.train is not None  # noqa: S101 - the schema asks for it
    prompts = read_prompts(
        table.train,
        split=table.split,
        question=table.question,
        answer=table.answer or None,
        answer_extraction=table.answer_extraction,
        limit=table.limit,
        config=table.config,
        keep=tuple(dict.fromkeys((*table.keep, *([recipe.columns.kind] if recipe.columns.kind else ())))),
    )
    return data_task("data", prompts, _heldout(table), make_judge(table))


def _heldout(table: TaskTable) -> tuple[Prompt, ...]:
    source = table.heldout or (table.train if table.heldout_split else None)
    if source is None:
        return ()
    return read_prompts(
        source,
        split=table.heldout_split,
        question=table.heldout_question or table.question,
        answer=table.heldout_answer or table.answer or None,
        keep=table.keep,
        answer_extraction=table.answer_extraction,
        # The configuration is a setting of the data set in `train`.
        config=None if table.heldout else table.config,
    )


def make_judge(table: TaskTable) -> Judge:
    """Return the verifier the recipe names.

    Raises:
        InputError: it has no such setting, or what it runs is not on this machine.
    """
    if table.verifier == "sequence":
        return sequence_judge
    known = inspect.signature(VERIFIERS[table.verifier]).parameters
    if "extraction" in table.model_fields_set and "extraction" not in known:
        raise InputError(f"verifier {table.verifier!r} finds the answer by itself: leave out task.extraction")
    own = {
        "extraction": table.extraction,
        "workers": table.workers or max(1, cores() - 1),
        **({} if table.deadline is None else {"deadline": table.deadline}),
    }
    twice = sorted({"extraction", "workers", "deadline"} & known.keys() & table.settings.keys())
    if twice:
        raise InputError(f"task.settings.{twice[0]} is an entry of its own: set task.{twice[0]}")
    return make_verifier(table.verifier, **{k: v for k, v in own.items() if k in known}, **table.settings)


def make_sampling(recipe: Recipe, policy: Policy, *, temperature: float, top_p: float, top_k: int) -> Sampling:
    """Return how this policy's answers are drawn.

    Raises:
        InputError: the tokenizer has no end token and the recipe no stop text.
    """
    table = recipe.decode
    return Sampling(
        max_tokens=table.max_tokens,
        stop_ids=end_token_ids(policy.tokenizer, getattr(policy.model, "generation_config", None), table.stop),
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        slots=table.slots,
        stop_text=stop_text(policy.tokenizer, table.stop),
        head=policy.head,
    )


def with_engine(recipe: Recipe, policy: Policy, chain: Chain | None = None) -> Policy:
    """Return the policy with the decoder the recipe names.

    Args:
        recipe: whose `decode.engine` to open.
        policy: the loaded model.
        chain: the method, where the run trains.

    Raises:
        InputError: the engine cannot be used here or with these settings, or the chain reads behaviour entropies
            that it would not have.
    """
    table = recipe.decode
    if table.engine == "embedded":
        return policy
    from forkpoint.decode.vllm import open_vllm

    if not table.rescore and chain is not None and "entropy" in chain.needs:
        raise InputError(
            "the chain reads behaviour entropies, of which vLLM only gives lower bounds: set decode.rescore = true, "
            "or source = 'current' where a link has it"
        )
    training = make_sampling(recipe, policy, temperature=table.temperature, top_p=table.top_p, top_k=table.top_k)
    evaluation = make_sampling(recipe, policy, temperature=recipe.eval.temperature, top_p=recipe.eval.top_p, top_k=0)
    evaluates = chain is None or recipe.eval.every or recipe.eval.before or recipe.eval.after
    longest = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    context = recipe.prompt.max_tokens + table.max_tokens
    engine = open_vllm(
        recipe.model.path,
        samplings=[*([training] if chain is not None else []), *([evaluation] if evaluates else [])],
        device=policy.device,
        dtype=policy.dtype,
        context=min(context, longest) if longest else context,
        memory=table.vllm_memory,
        top_logprobs=0 if table.rescore else table.top_logprobs,
        revision=recipe.model.revision,
        trust_remote_code=recipe.model.trust_remote_code,
        seed=recipe.seed,
    )
    return dataclasses.replace(policy, engine=engine)


def encode(recipe: Recipe, policy: Policy, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Return the token ids of prompts; an empty list where one was too long and is to be dropped."""
    table = recipe.prompt
    return encode_prompts(
        prompts, policy.tokenizer, template=table.template, max_tokens=table.max_tokens, overlong=table.overlong
    )


def make_optimizer(recipe: Recipe, model: Any) -> torch.optim.AdamW:
    """Return AdamW over the parameters that learn; vectors (norms, biases) are not decayed."""
    table = recipe.train
    learns = trainable(model)
    return torch.optim.AdamW(
        [
            {"params": [p for _, p in learns if p.ndim >= 2], "weight_decay": table.weight_decay},
            {"params": [p for _, p in learns if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=table.lr,
        betas=table.betas,
        eps=table.eps,
    )


def column_context(recipe: Recipe, policy: Policy) -> Context:
    """Return what the columns of `Rollouts.extra` are made from.

    Raises:
        InputError: the program in `columns.program` cannot be loaded, or the model has no such attention layer.
    """
    table = recipe.columns
    if table.attention_layer is not None:
        attention_layer(policy.model, table.attention_layer)
    return Context(
        table=table,
        tokenizer=policy.tokenizer,
        convention=_convention(recipe.task),
        model=policy.model,
        temperature=recipe.decode.temperature,
        dtype=policy.dtype,
        head=policy.head,
        program=None if table.program is None else load_program(table.program),
    )


def _convention(table: TaskTable) -> Convention:
    if table.name == "arithmetic-sequence":
        return convention("whole")
    return convention("countdown" if table.name.startswith("countdown") else table.extraction)


def make_reference(recipe: Recipe, policy: Policy, chain: Chain) -> Policy | None:
    """Return the reference model where a link needs one; None where the adapters can be switched off instead."""
    if "ref_logp" not in chain.needs:
        return None
    table = recipe.model
    if recipe.reference.path is None and table.lora is not None:
        return None
    model = load_model(
        recipe.reference.path or table.path,
        dtype=policy.dtype,
        device=policy.device,
        attention=table.attention,
        revision=table.revision if recipe.reference.path is None else None,
        trust_remote_code=table.trust_remote_code,
        head=table.head,
    ).requires_grad_(False)
    if policy.device.type == "cpu":
        row_linears(model)
    return dataclasses.replace(policy, model=model, packed=can_pack(model))
