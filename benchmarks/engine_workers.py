"""What a process of `engine_vs_trl.py` runs: one system for a few steps."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SYSTEMS = (
    "forkpoint",
    "forkpoint-behaviour",
    "forkpoint-trl-preset",
    "forkpoint-torch-products",
    "trl-our-linears",
    "trl",
)
PROMPTS, GROUP, UPDATES, MAX_TOKENS = 32, 8, 4, 128
ROWS = PROMPTS * GROUP // UPDATES
LR, CLIP_LOW, CLIP_HIGH, SHARE = 1e-4, 0.2, 0.28, 0.2
RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "demo.toml"


@dataclass
class Watch:
    """CPU seconds by phase, and the steps they have been cut into."""

    spent: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    steps: list[dict[str, Any]] = field(default_factory=list)
    mark: tuple[float, float] = (0.0, 0.0)

    def around(
        self, phase: str, function: Callable[..., Any], look: Callable[[Any], None] | None = None
    ) -> Callable[..., Any]:
        """Return the function with its CPU time added to a phase and its result shown to `look`."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            try:
                result = function(*args, **kwargs)
            finally:
                self.spent[phase] += time.process_time() - began
            if look is not None:
                look(result)
            return result

        return timed

    def begin(self) -> None:
        """Start the clock of the first step."""
        self.mark = (time.process_time(), time.perf_counter())

    def cut(self) -> None:
        """End a step: everything since the end of the one before belongs to it."""
        now = (time.process_time(), time.perf_counter())
        cpu, wall = now[0] - self.mark[0], now[1] - self.mark[1]
        phases = dict(self.spent) | {"rest": cpu - sum(self.spent.values())}
        self.steps.append({"cpu": cpu, "wall": wall, "phases": phases, **self.seen})
        self.spent.clear()
        self.seen.clear()
        self.mark = (time.process_time(), time.perf_counter())


def work(system: str, *, model: Path, turn: int, steps: int) -> dict[str, Any]:
    """Run one system for a warm-up step and `steps` more and return what was measured."""
    run = trl_run if system.startswith("trl") else forkpoint_run
    watch = Watch()
    base: dict[str, list[float]] = {"reward": [], "length": []}
    memory: dict[str, float] = {}
    prompts = run(system, model, turn, steps + 1, watch, base, memory)
    return {"steps": watch.steps[1:], "warm_up": watch.steps[0], "base": base, "memory": memory, "prompts": prompts}


def resident(name: str) -> float:
    """Return `VmRSS` or `VmHWM` of this process in MB (1e6 bytes)."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name + ":"))
    return int(line.split()[1]) * 1024 / 1e6


def forkpoint_run(
    system: str, model: Path, turn: int, steps: int, watch: Watch, base: dict[str, Any], memory: dict[str, float]
) -> list[list[int]]:
    """Train as `forkpoint train` does, with no evaluation and no files beside metrics and the last checkpoint."""
    from forkpoint import products
    from forkpoint.train import collect, loop

    memory["imports"] = resident("VmRSS")
    prompts: list[list[int]] = []

    def sampled(rollouts: Any) -> None:
        if watch.steps:
            return
        base["length"] += rollouts.mask_BT.sum(1).tolist()
        rows = range(0, rollouts.rows, GROUP)
        prompts.extend(rollouts.prompt_BS[row, : rollouts.prompt_length_B[row]].tolist() for row in rows)

    def judged(rollouts: Any) -> None:
        watch.seen["rows"] += rollouts.rows
        if not watch.steps:
            base["reward"] += rollouts.reward_B.tolist()

    def learned(updated: Any) -> None:
        watch.seen["updates"] += updated.updates
        watch.seen["tokens"] += int(updated.metrics["tokens/response"])

    def stepped(here: Any, progress: Any) -> Any:
        if not watch.mark[0]:
            memory["before"] = resident("VmRSS")
            watch.begin()
        result = original(here, progress)
        watch.cut()
        memory["peak"] = resident("VmHWM")
        return result

    if system == "forkpoint-torch-products":
        products.library = lambda: "torch"
    original = loop._step
    loop._step = stepped
    loop.learn = watch.around("update", loop.learn, learned)
    collect.sample_rollouts = watch.around("decode", collect.sample_rollouts, sampled)
    collect.rewarded = watch.around("verify", collect.rewarded, judged)
    with tempfile.TemporaryDirectory() as folder:
        loop.train(recipe(model, turn, steps, system), run_dir=Path(folder) / "run")
    return prompts


def recipe(model: Path, turn: int, steps: int, system: str = "forkpoint") -> Any:
    """Return the demo's recipe with everything that matters here spelled out."""
    from forkpoint.train.recipe import load_recipe

    return load_recipe(
        RECIPE,
        [
            f"seed={turn}", f"model.path={model}", "model.threads=1", "model.device=cpu", "model.dtype=float32",
            "task.name=countdown", "prompt.template=none",
            "decode.temperature=1.0", f"decode.max_tokens={MAX_TOKENS}", f"decode.slots={PROMPTS * GROUP}",
            f"train.steps={steps}", f"train.prompts={PROMPTS}", f"train.group={GROUP}",
            f"train.mini_prompts={PROMPTS // UPDATES}", f"train.lr={LR}", "train.weight_decay=0.0",
            "train.betas=[0.9, 0.999]", "train.eps=1e-8", "train.grad_clip=1.0", "train.dynamic_sampling=false",
            "credit.method=forking", f"credit.share={SHARE}",
            f"credit.preset={'trl' if system == 'forkpoint-trl-preset' else 'paper'}",
            f"credit.source={'behaviour' if system == 'forkpoint-behaviour' else 'current'}",
            f"credit.clip_low={CLIP_LOW}", f"credit.clip_high={CLIP_HIGH}",
            "eval.before=false", "eval.after=false", "eval.every=0", "checkpoint.every=1000", "log.rollouts_every=0",
        ],
    )  # fmt: skip


def trl_run(
    system: str, model: Path, turn: int, steps: int, watch: Watch, base: dict[str, Any], memory: dict[str, float]
) -> list[list[int]]:
    """Train with TRL on the same problems."""
    import torch
    from transformers import TrainerCallback

    from forkpoint.linear import row_linears
    from forkpoint.tasks.countdown import countdown_task

    draw = countdown_task("countdown", heldout=1).train_prompt
    texts = [draw(turn, position).text for position in range(PROMPTS * steps)]
    prompts: list[list[int]] = []

    def scored(output: dict[str, Any]) -> None:
        watch.seen["tokens"] += int(output["completion_mask"].sum())
        if not watch.steps:
            base["length"] += output["completion_mask"].sum(1).tolist()
            for ids, mask in zip(output["prompt_ids"][::GROUP], output["prompt_mask"][::GROUP], strict=True):
                prompts.append(ids[mask.bool()].tolist())

    def judged(rewards: Any) -> None:
        if not watch.steps:
            base["reward"] += rewards[:, 0].tolist()

    def looked(inputs: dict[str, Any]) -> None:
        watch.seen["rows"] += inputs["completion_ids"].shape[0]

    class Cut(TrainerCallback):
        def on_train_begin(self, *_: Any, optimizer: Any = None, **__: Any) -> None:
            optimizer.step = watch.around("update", optimizer.step)
            memory["before"] = resident("VmRSS")
            watch.begin()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            watch.seen["updates"] += 1
            if state.global_step % UPDATES == 0:
                watch.cut()
                memory["peak"] = resident("VmHWM")

    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_trainer(model, texts, folder, turn=turn, updates=UPDATES * steps)
        memory["imports"] = _AFTER_IMPORT["trl"]
        if system == "trl-our-linears":
            row_linears(trainer.model)
        trainer.add_callback(Cut())
        trainer._generate = watch.around("decode", trainer._generate)
        trainer._calculate_rewards = watch.around("verify", trainer._calculate_rewards, judged)
        score = trainer._get_per_token_logps_and_entropies
        again = watch.around("old log-probs", score)
        trainer._get_per_token_logps_and_entropies = lambda *a, **k: (
            score(*a, **k) if torch.is_grad_enabled() else again(*a, **k)
        )
        both = trainer._generate_and_score_completions
        trainer._generate_and_score_completions = shown(both, scored)
        trainer._prepare_inputs = shown(trainer._prepare_inputs, looked)
        trainer.compute_loss = watch.around("update", trainer.compute_loss)
        trainer.accelerator.backward = watch.around("update", trainer.accelerator.backward)
        trainer.accelerator.clip_grad_norm_ = watch.around("update", trainer.accelerator.clip_grad_norm_)
        trainer.train()
    return prompts


def shown(function: Callable[..., Any], look: Callable[[Any], None]) -> Callable[..., Any]:
    """Return the function with its result shown to `look`."""

    def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        look(result)
        return result

    return call


_AFTER_IMPORT: dict[str, float] = {}


def trl_trainer(model: Path, texts: Sequence[str], folder: str, *, turn: int, updates: int) -> Any:
    """Return TRL's trainer with the settings of this comparison and nothing else switched on."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from forkpoint.rollouts import Prompt
    from forkpoint.tasks.countdown import countdown_judge

    _AFTER_IMPORT["trl"] = resident("VmRSS")

    def right(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        problems = [Prompt(id=str(row), text=text) for row, text in enumerate(prompts)]
        return [judgement.reward for judgement in countdown_judge(problems, completions)]

    settings = GRPOConfig(
        output_dir=folder, seed=turn, max_steps=updates, use_cpu=True, bf16=False, gradient_checkpointing=False,
        per_device_train_batch_size=ROWS, gradient_accumulation_steps=1, generation_batch_size=PROMPTS * GROUP,
        num_generations=GROUP, max_completion_length=MAX_TOKENS, temperature=1.0, top_p=1.0, top_k=0,
        loss_type="dapo", epsilon=CLIP_LOW, epsilon_high=CLIP_HIGH, beta=0.0, top_entropy_quantile=SHARE,
        learning_rate=LR, lr_scheduler_type="constant", weight_decay=0.0, adam_beta1=0.9, adam_beta2=0.999,
        adam_epsilon=1e-8, max_grad_norm=1.0, shuffle_dataset=False, report_to="none", save_strategy="no",
        logging_strategy="no", disable_tqdm=True, model_init_kwargs={"dtype": "float32"},
    )  # fmt: skip
    return GRPOTrainer(
        model=str(model),
        processing_class=AutoTokenizer.from_pretrained(str(model)),
        args=settings,
        reward_funcs=right,
        train_dataset=Dataset.from_dict({"prompt": list(texts)}),
    )
