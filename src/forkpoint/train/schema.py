"""What a recipe may say: one frozen model a table, with units under every field.

`forkpoint.train.recipe` reads files into these models; nothing here touches a disk.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator
from pydantic.fields import FieldInfo

from forkpoint.train.columns_table import ColumnsTable
from forkpoint.train.schema_types import Count, Natural, NonNegative, Positive, Share, Table, Words


class LoraTable(Table):
    """`[model.lora]`: train low-rank adapters (arXiv 2106.09685) instead of all weights."""

    rank: Count = 16
    """Rank of the update."""
    alpha: Positive = 32.0
    """The update is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of dropping an adapter input."""
    targets: str | Words = "all-linear"
    """Names of the linear layers to adapt; `all-linear` is every one but the lm-head."""

    @field_validator("targets")
    @classmethod
    def _names(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(value, str) and value != "all-linear":
            raise ValueError(f"= {value!r} is neither 'all-linear' nor a list of layer names such as ['q_proj']")
        return value


class ModelTable(Table):
    """`[model]`: the policy."""

    path: Annotated[str, Field(min_length=1)]
    """A directory or a hub name such as `owner/model`."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["float32", "bfloat16", "auto"] = "auto"
    """Of products and frozen weights; what learns stays float32. `auto`: bfloat16 on cuda, else float32."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto` takes cuda, then mps, then cpu."""
    threads: Natural = 0
    """CPU threads of torch; 0 is the cores this process may use."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention implementation of transformers."""
    head: Literal["fused", "plain"] = "fused"
    """How the lm-head is computed. `fused`: without ever holding all logits, gradients for learning tokens only.
    `plain`: the model's own logits, held whole; for families whose head is more than a linear layer."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Only for models whose code you have read."""
    lora: LoraTable | None = None
    """Adapters; without this table every weight is trained."""


class TaskTable(Table):
    """`[task]`: problems and the verifier that judges answers."""

    name: Literal["countdown", "countdown-coin", "arithmetic-sequence", "data"] = "countdown"
    """A built-in task, or `data` for a file or a hub data set."""
    train: str | None = None
    """Training problems: a .jsonl, .json, .csv or .parquet file, a folder of splits, or a hub id."""
    heldout: str | None = None
    """Problems for evaluation only; without it `heldout_split` of `train` is read, and without both none."""
    config: str | None = None
    """Configuration (subset) of the hub data set in `train`."""
    split: str = "train"
    """Split of `train`, where it is a folder or a hub data set."""
    heldout_split: str | None = None
    """Split of `heldout`, or of `train` where `heldout` is not given."""
    question: str = "question"
    """Field that holds the problem; dots reach into nested fields, a list of messages is read as a chat."""
    answer: str = "answer"
    """Field that holds the reference answer; dots reach into nested fields. Empty where `keep` names the tests."""
    keep: Words = ()
    """Further fields for the verifier: tests of a program, header of a theorem. `extra_info` is kept anyway."""
    answer_extraction: Literal["none", "gsm8k", "boxed"] = "none"
    """Where the reference stands in its field: all of it, after `####`, or in the last box."""
    heldout_question: str | None = None
    """The same of `heldout`; None takes that of `train`."""
    heldout_answer: str | None = None
    """The same of `heldout`; None takes that of `train`."""
    verifier: Literal[
        "math", "number", "list", "interval", "tuple", "equation", "choice", "exact", "string", "olympiad", "sequence",
        "code-tests", "code-output", "lean",
    ] = "math"  # fmt: skip
    """`math` compares as mathematics, `number` to `equation` ask for that kind of answer, `choice` compares letters,
    `exact` normalised text, `string` characters; `olympiad` reads the kind from each row, `sequence` gives the share
    continued correctly. `code-tests` runs programs against the tests of their row, `code-output` compares the value a
    program returns, `lean` checks proofs."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Further settings of that verifier, such as `style` and `cpu_s` of `code-tests`, `binary` of `lean`."""
    extraction: Literal["boxed", "gsm8k", "a-line", "number", "whole", "auto"] = "boxed"
    """Where the answer stands in a completion, see `forkpoint.verify.extract`; looser rules can be gamed."""
    limit: Count | None = None
    """Read at most this many training problems."""
    deadline: Positive | None = None
    """Seconds a verdict may take. A mathematical answer is not judged after it, a program is wrong. None: what the
    verifier itself takes, 5 for mathematics, 8 for one test of a program, 60 for a proof."""
    workers: Natural = 0
    """Verifier processes; 0 is one for every core but one, at least one."""

    @model_validator(mode="after")
    def _sources(self) -> TaskTable:
        if self.name == "data" and self.train is None:
            raise ValueError("task.name is 'data', so task.train must name a file or a hub data set")
        if self.name.startswith("countdown") and (self.train or self.heldout):
            raise ValueError(f"task {self.name!r} draws its own problems: leave out train and heldout, or use 'data'")
        return self


class PromptTable(Table):
    """`[prompt]`: how a problem becomes what the model reads."""

    template: str = "auto"
    """`none`, `chat`, `boxed`, text with {question}, or `auto`: chat where the tokenizer has a template."""
    max_tokens: Count = 2048
    """Longest prompt, in tokens, after the template."""
    overlong: Literal["error", "drop"] = "error"
    """What to do with a longer one: stop and name it, or leave it out."""

    @field_validator("template")
    @classmethod
    def _has_question(cls, value: str) -> str:
        if value not in ("auto", "none", "chat", "boxed") and "{question}" not in value:
            raise ValueError("is neither auto, none, chat nor boxed, so it must be text that contains {question}")
        return value


class DecodeTable(Table):
    """`[decode]`: how answers are sampled."""

    temperature: Positive = 1.0
    """Divides the logits."""
    top_p: Share = 1.0
    """Keep the smallest set of tokens with this probability; 1 keeps all."""
    top_k: Natural = 0
    """Keep this many tokens; 0 keeps all."""
    max_tokens: Count = 1024
    """Longest answer, in tokens."""
    stop: Words = ()
    """Texts that end an answer, besides the tokenizer's end token."""
    slots: Count = 256
    """Answers decoded at once; bounds the memory of the key-value cache."""
    engine: Literal["embedded", "vllm"] = "embedded"
    """`vllm` (`pip install 'forkpoint[vllm]'`, CUDA) decodes in this process, with the weights updated in place."""
    vllm_memory: Share = 0.4
    """Share of the device's memory that vLLM takes, for its copy of the weights and its cache."""
    rescore: bool = True
    """vLLM gives no entropies: get them from one more forward pass of the training model. Without it they are lower
    bounds, marked as such, and links that select on behaviour entropies refuse them."""
    top_logprobs: Natural = 20
    """Most likely tokens a position whose log-probs vLLM returns without `rescore`; more tighten the bound."""

    @model_validator(mode="after")
    def _engine_can(self) -> DecodeTable:
        if self.engine == "vllm" and self.stop:
            raise ValueError(
                "decode.stop is not available with decode.engine = 'vllm', which ends answers at tokens: "
                "leave it empty, or set decode.engine = 'embedded'"
            )
        return self


class TrainTable(Table):
    """`[train]`: the loop. Defaults follow DAPO (arXiv 2503.14476) and the 80/20 paper (arXiv 2506.01939)."""

    steps: Count
    """Rollout batches to train on."""
    prompts: Count = 512
    """Prompts in a rollout batch."""
    group: Count = 16
    """Answers to each prompt."""
    mini_prompts: Count = 32
    """Prompts an optimiser update learns from; `prompts / mini_prompts` updates a pass."""
    epochs: Count = 1
    """Passes over a rollout batch."""
    micro_tokens: Count = 16384
    """Most tokens (prompt and answer, padding not counted) in one forward and backward pass. Changes the result only
    of chains with a statistic of scope `micro`, such as the presets `authors-code` and `trl`."""
    lr: Positive = 1e-6
    """Learning rate of AdamW."""
    betas: Annotated[tuple[float, float], Field(strict=False)] = (0.9, 0.999)
    """Decay of AdamW's two moments."""
    eps: Positive = 1e-8
    """Added to AdamW's denominator."""
    weight_decay: NonNegative = 0.1
    """Decoupled weight decay."""
    warmup: Natural = 0
    """Updates over which the learning rate rises from 0."""
    grad_clip: NonNegative = 1.0
    """Largest norm of the gradient; 0 leaves it alone."""
    dynamic_sampling: bool = True
    """Replace groups whose answers all earn the same until the batch is full."""
    max_rounds: Count = 10
    """Most rounds of sampling: a batch that is still not full then learns from what it has, and the log says so; a
    batch without any useful group stops the run."""

    @field_validator("betas")
    @classmethod
    def _in_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError("must be two numbers in [0, 1)")
        return value

    @model_validator(mode="after")
    def _divides(self) -> TrainTable:
        if self.mini_prompts > self.prompts:
            raise ValueError(
                f"train.mini_prompts = {self.mini_prompts} is more than train.prompts = {self.prompts}: "
                "an update cannot learn from more prompts than a step samples"
            )
        if self.prompts % self.mini_prompts:
            raise ValueError(
                f"train.prompts = {self.prompts} is not a multiple of train.mini_prompts = "
                f"{self.mini_prompts}: every update must learn from the same number of prompts"
            )
        if self.dynamic_sampling and self.group == 1:
            raise ValueError(
                "train.group = 1 leaves no group whose answers differ: raise it, or set train.dynamic_sampling = false"
            )
        return self


class RewardTable(Table):
    """`[reward]`: what is added to the verdict (arXiv 2503.14476 eq. 13)."""

    overlong_buffer: Natural = 0
    """The last tokens of `decode.max_tokens` over which the soft punishment grows; 0 turns it off."""
    overlong_factor: NonNegative = 1.0
    """Punishment at the very end of the buffer, in units of reward."""


class ReferenceTable(Table):
    """`[reference]`: the model a KL term pulls towards."""

    path: str | None = None
    """Directory or hub name; None is the policy before training."""


class EvalTable(Table):
    """`[eval]`: accuracy on held-out problems."""

    every: Natural = 5
    """Steps between evaluations; 0 leaves only those before and after."""
    problems: Count = 256
    """Held-out problems, or all if there are fewer."""
    samples: Count = 4
    """Answers to each."""
    temperature: NonNegative = 1.0
    """Sampling temperature; 0 is greedy."""
    top_p: Share = 1.0
    """Nucleus of evaluation samples."""
    before: bool = True
    """Evaluate the model before the first step."""
    after: bool = True
    """Evaluate the model after the last step."""


class CheckpointTable(Table):
    """`[checkpoint]`: what a killed run can continue from."""

    every: Count = 5
    """Steps between checkpoints; the last step always writes one."""
    keep: Count = 2
    """Newest checkpoints to keep."""


class LogTable(Table):
    """`[log]`: what a run writes down."""

    rollouts_every: Natural = 1
    """Steps between rollout files; 0 writes none."""
    trackers: Words = ()
    """Trackers that mirror the metrics."""


class MethodTable(BaseModel):
    """`[credit]` with a named method; the other keys are its arguments."""

    model_config = ConfigDict(extra="allow", frozen=True)

    method: str
    """A name from `forkpoint methods`."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The method's keyword arguments."""
        return dict(self.model_extra or {})


class LinkTable(BaseModel):
    """One `[[credit]]` table of a chain; the other keys are the link's arguments."""

    model_config = ConfigDict(extra="allow", frozen=True)

    link: str
    """A name from `forkpoint.credit.LINKS`."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The link's keyword arguments."""
        return dict(self.model_extra or {})


def _kind(value: Any) -> str:
    return "chain" if isinstance(value, list | tuple) else "method"


CreditTable = Annotated[
    Annotated[MethodTable, Tag("method")]
    | Annotated[tuple[LinkTable, ...], Field(strict=False, min_length=1), Tag("chain")],
    Discriminator(_kind),
]


class Recipe(Table):
    """Everything a training run depends on, apart from the files it names."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    """Names the run directory: letters, digits, dot, dash, underscore."""
    seed: Natural = 0
    """Every random stream of the run derives from it."""
    model: ModelTable
    task: TaskTable = TaskTable()
    prompt: PromptTable = PromptTable()
    decode: DecodeTable = DecodeTable()
    train: TrainTable
    reward: RewardTable = RewardTable()
    reference: ReferenceTable = ReferenceTable()
    credit: CreditTable = MethodTable(method="forking")
    columns: ColumnsTable = ColumnsTable()
    eval: EvalTable = EvalTable()
    checkpoint: CheckpointTable = CheckpointTable()
    log: LogTable = LogTable()

    @model_validator(mode="after")
    def _buffer_fits(self) -> Recipe:
        if self.reward.overlong_buffer >= self.decode.max_tokens:
            raise ValueError(
                f"reward.overlong_buffer = {self.reward.overlong_buffer} must be smaller than "
                f"decode.max_tokens = {self.decode.max_tokens}: it is the last part of an answer"
            )
        return self


def settings(model: type[BaseModel] = Recipe, prefix: str = "") -> dict[str, FieldInfo]:
    """Return every setting by dotted name, with its type, default and description.

    >>> found = settings()
    >>> found["train.lr"].default, found["model.lora.rank"].description
    (1e-06, 'Rank of the update.')
    """
    found: dict[str, FieldInfo] = {}
    for name, info in model.model_fields.items():
        kinds = (info.annotation, *get_args(info.annotation))
        table = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Table)), None)
        found |= settings(table, f"{prefix}{name}.") if table else {f"{prefix}{name}": info}
    return found
