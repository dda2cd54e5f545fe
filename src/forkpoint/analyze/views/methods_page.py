"""Methods side by side on one recorded batch: who pushes which token, before any training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forkpoint.analyze import drawing
from forkpoint.analyze.measures.push import Pushed, push
from forkpoint.analyze.rundata import read_rollouts, read_run, step_of
from forkpoint.analyze.views.analysis_page import write_analysis
from forkpoint.analyze.views.answers import TOKENS_SHOWN, Answer, answers, choose
from forkpoint.analyze.views.page import Panel
from forkpoint.analyze.views.summary import Fact
from forkpoint.errors import InputError

if TYPE_CHECKING:
    from pyarrow import Table

    from forkpoint.credit import Chain
    from forkpoint.rollouts import Rollouts

ANSWERS = 40
DRAWN_TOKENS = 240
"""Tokens of the one answer that is drawn."""
BINS = 10
DOTS = 1500
Floats = NDArray[np.float64]


def plot_methods(
    chains: Mapping[str, Chain],
    run_dir: Path,
    out: Path,
    *,
    step: int | None = None,
    model: str | None = None,
    reference: str | None = None,
) -> Path:
    """Write one HTML page with the credit that methods give to a recorded rollout batch.

    Args:
        chains: label to method, one or two.
        run_dir: a run directory with rollouts.
        out: where to write the page.
        step: which step's rollouts; None takes the last.
        model: the model that wrote the answers, which gives what is not recorded: hidden states, nuclei, steps, …
        reference: the model whose log-probs a KL term pulls towards.

    Returns:
        The path written.

    Raises:
        InputError: the run holds no such rollouts, a method needs what they do not hold, or the page cannot be
            written.
    """
    from forkpoint.analyze.completed import check_plotted, completed_by
    from forkpoint.analyze.recorded import rollouts_of_table

    run = read_run(run_dir)
    path = _file_of(run.rollout_files, run_dir, step)
    table = read_rollouts(path)
    recipe = run.recipe.get("recipe")
    recipe = recipe if isinstance(recipe, dict) else {}
    decode = recipe.get("decode")
    longest = decode.get("max_tokens") if isinstance(decode, dict) else None
    rollouts = rollouts_of_table(table, max_tokens=longest if isinstance(longest, int) else None)
    for label, chain in chains.items():
        check_plotted(label, chain, rollouts, recipe, model=model is not None, reference=reference is not None)
    said: list[str] = []
    if model is not None or reference is not None:
        needs = frozenset[str]().union(*(chain.needs for chain in chains.values()))
        rollouts, said = completed_by(model, rollouts, needs, recipe, reference=reference)
    pushed = {label: push(chain, rollouts) for label, chain in chains.items()}
    flat = {label: found.push_BT[rollouts.mask_BT].numpy() for label, found in pushed.items()}
    entropy_N = rollouts.entropy_BT[rollouts.mask_BT].numpy()
    pulled = {label: found.pull_BT[rollouts.mask_BT].numpy() for label, found in pushed.items()}
    pulling = [label for label, values in pulled.items() if values.any()]
    idle = [label for label, chain in chains.items() if label not in pulling and _has_term(chain, pushed[label])]
    notes = [
        "Push is the first update's: the current policy is the one that sampled the answers, and running thresholds "
        "and schedules are at their beginning.",
        *said,
        *(f"{label} has a term of its own that pulls on no entropy in a first update." for label in idle),
    ]
    place = _answer_drawn(rollouts, list(pushed.values()))
    return write_analysis(
        out,
        title=" and ".join(chains),
        about={
            "run": run.path.name, "step": str(step_of(path)), "answers": f"{rollouts.rows:,}",
            "tokens": f"{entropy_N.size:,}",
            **{label: ", ".join(link.name for link in chain.links) for label, chain in chains.items()},
        },
        panels=[
            _by_bin(flat, entropy_N, "entropy"), _by_bin(flat, _places(rollouts), "position"),
            *([_by_bin(pulled, entropy_N, "pull")] if pulling else []),
            _along(pushed, rollouts, place), *([_against(flat)] if len(flat) == 2 else []),
        ],
        facts=_facts(flat, entropy_N),
        answers=_answers(table, pushed),
        notes=notes,
    )  # fmt: skip


def _file_of(files: Sequence[Path], run_dir: Path, step: int | None) -> Path:
    if not files:
        raise InputError(f"{run_dir} holds no rollouts/step-*.parquet files: train with rollouts recorded")
    found = {step_of(path): path for path in files}
    if step is not None and step not in found:
        raise InputError(f"{run_dir} has no rollouts of step {step}: it has {', '.join(map(str, found))}")
    return files[-1] if step is None else found[step]


def _has_term(chain: Chain, found: Pushed) -> bool:
    return bool(chain.regularisers or found.credit.entropy_terms)


def _places(rollouts: Rollouts) -> Floats:
    """Return where in its answer every token stands, in [0, 1)."""
    mask = rollouts.mask_BT.numpy()
    length = np.maximum(mask.sum(1, keepdims=True), 1)
    return (np.arange(mask.shape[1])[None] / length)[mask]


def _facts(flat: Mapping[str, Floats], entropy_N: Floats) -> list[Fact]:
    facts = []
    order = np.argsort(-entropy_N, kind="stable")
    forks = order[: max(1, int(np.ceil(0.2 * entropy_N.size)))] if entropy_N.size else order
    for label, values in flat.items():
        total = np.abs(values).sum()
        share = np.abs(values[forks]).sum() / total if total else 0.0
        facts.append(
            Fact(
                label=f"{label}: tokens that learn",
                before=f"{np.mean(values != 0) if values.size else 0.0:.1%}",
                detail=f"{share:.1%} of the push is on the 20 % of tokens with the highest entropy",
            )
        )
    if len(flat) == 2:
        one, two = flat.values()
        both = (one != 0) & (two != 0)
        opposed = np.mean(np.sign(one[both]) != np.sign(two[both])) if both.any() else 0.0
        sizes = [float(np.abs(values).sum()) for values in (one, two)]
        names = list(flat)
        harder = f"; {names[1]} pushes {sizes[1] / sizes[0]:.3g} times as hard as {names[0]}" if sizes[0] else ""
        facts.append(
            Fact(
                label="Learn in both",
                before=f"{np.mean(both) if both.size else 0.0:.1%}",
                detail=f"of them {opposed:.1%} in opposite directions; cosine of the pushes {_cosine(one, two):.3f}"
                f"{harder}",
            )
        )
    return facts


def _cosine(one: Floats, two: Floats) -> float:
    size = float(np.linalg.norm(one) * np.linalg.norm(two))
    return float(one @ two) / size if size else 0.0


def _by_bin(flat: Mapping[str, Floats], by_N: Floats, what: str) -> Panel:
    """Return the mean over tenths of the tokens: of |push| by entropy or by position, or of the pull by entropy."""
    titles = {"entropy": "Push by entropy", "position": "Push by position", "pull": "Pull on the entropy"}
    by_entropy = "tokens by entropy, lowest tenth to highest"
    ends = {"entropy": by_entropy, "position": "tenth of the answer", "pull": by_entropy}
    by_push = (
        "It is -N ∂L/∂log π of the first update, N the number of tokens: DAPO pushes every token by its advantage."
    )
    captions = {
        "entropy": f"Mean magnitude of the push in every tenth of the tokens, ordered by entropy. {by_push}",
        "position": f"Mean magnitude of the push in every tenth of the answers. {by_push}",
        "pull": "Mean pull in every tenth of the tokens, ordered by entropy: -N ∂L/∂H, what acts on the entropy itself "
        "and not through the sampled token. Above 0 it raises entropy.",
    }
    if not by_N.size:
        return Panel(title=titles[what], caption=captions[what], absent="The batch holds no tokens.")
    figure, (axes,) = drawing.panels()
    order = np.argsort(by_N, kind="stable")
    words = []
    for series, (label, values) in enumerate(flat.items()):
        sized = values if what == "pull" else np.abs(values)
        means = [float(sized[part].mean()) if part.size else np.nan for part in np.array_split(order, BINS)]
        drawing.line(axes, np.arange(1, BINS + 1), means, series, label)
        words.append(f"{label}: {means[0]:.3g} to {means[-1]:.3g}")
    if what == "pull":
        axes.axhline(0, color=drawing.MUTED, linewidth=0.8)
    else:
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    drawing.finish(axes, ends[what], "mean pull" if what == "pull" else "mean |push|")
    drawing.legend(figure, axes, 2)
    return Panel(
        title=titles[what], caption=captions[what],
        svg=drawing.to_svg(figure, f"push-{what}", f"{titles[what]}. {'; '.join(words)}."),
    )  # fmt: skip


def _answer_drawn(rollouts: Rollouts, found: Sequence[Pushed]) -> int:
    """Return the answer on which methods differ most, or one method's pushes differ most between tokens."""
    one, two = found[0].push_BT, found[-1].push_BT
    length_B = rollouts.mask_BT.sum(1).clamp(min=1)
    apart_BT = (one - two) if len(found) == 2 else one - one.sum(1, keepdim=True) / length_B[:, None]
    apart_B = (apart_BT.abs() * rollouts.mask_BT).sum(1) / length_B
    return int(apart_B.argmax()) if apart_B.any() else int(one.abs().sum(1).argmax())


def _along(pushed: Mapping[str, Pushed], rollouts: Rollouts, place: int) -> Panel:
    size = min(int(rollouts.mask_BT[place].sum()), DRAWN_TOKENS)
    prompt = rollouts.prompts[int(rollouts.group_B[place])].id
    verdict = str(rollouts.verdicts[place]) if rollouts.verdicts else "not judged by name"
    caption = (
        f"The answer on which most happens: problem {prompt}, sample {int(rollouts.sample_B[place])}, {verdict}, its "
        f"first {size} tokens. Below, its entropy."
    )
    figure, (above, below) = drawing.panels(2, 1, size=(5.7, 4.4))
    at = np.arange(size)
    for series, (label, found) in enumerate(pushed.items()):
        color = drawing.SERIES[series][0]
        values = found.push_BT[place, :size].numpy()
        above.vlines(at + 0.3 * series, 0, values, color=color, linewidth=1.2, label=drawing.named(label))
    above.axhline(0, color=drawing.MUTED, linewidth=0.8)
    below.fill_between(at, 0, rollouts.entropy_BT[place, :size].numpy(), color=drawing.GREEN, alpha=0.4, linewidth=0)
    drawing.finish(above, "", "push")
    drawing.finish(below, "token", drawing.entropy_axis(rollouts.entropy_kind == "lower-bound"))
    drawing.legend(figure, above, 2)
    label = f"Push along one answer of problem {prompt}."
    return Panel(title="Along one answer", caption=caption, svg=drawing.to_svg(figure, "push-along", label))


def _against(flat: Mapping[str, Floats]) -> Panel:
    (name, one), (other, two) = flat.items()
    figure, (axes,) = drawing.panels(size=(5.7, 4.2))
    keep = np.linspace(0, max(one.size - 1, 0), min(one.size, DOTS)).astype(int)
    axes.plot(one[keep], two[keep], linestyle="none", marker=".", markersize=3, alpha=0.35, color=drawing.BLUE)
    axes.axhline(0, color=drawing.MUTED, linewidth=0.8)
    axes.axvline(0, color=drawing.MUTED, linewidth=0.8)
    axes.axline((0, 0), slope=1, color=drawing.MUTED, linewidth=0.8, linestyle=":")
    drawing.finish(axes, f"push of {name}", f"push of {other}")
    caption = "Every dot is a token; those on the dotted diagonal are pushed alike."
    label = f"Push of {name} against {other}, cosine {_cosine(one, two):.3f}."
    return Panel(title="Token by token", caption=caption, svg=drawing.to_svg(figure, "push-against", label))


def _answers(table: Table, pushed: Mapping[str, Pushed]) -> list[Answer]:
    """Return the chosen answers once a method, each beside its other versions."""
    import pyarrow as pa

    names: list[list[str]] = [
        [str(x) for x in table.column(column).to_pylist()] if column in table.column_names else [""] * table.num_rows
        for column in ("prompt_id", "verdict")
    ]
    places = choose(names[0], names[1], ANSWERS)
    shown = answers(table.take(pa.array(places, pa.int64())), source="", count=len(places))
    return [
        dataclasses.replace(answer, source=label, **_columns(found, place, len(answer.tokens)))
        for place, answer in zip(places, shown, strict=True)
        for label, found in pushed.items()
    ]


def _columns(found: Pushed, place: int, size: int) -> dict[str, Any]:
    kept = min(size, TOKENS_SHOWN)
    credit = found.credit
    return {
        "credit": found.push_BT[place, :kept].float().numpy(),
        "advantage": credit.advantage_BT[place, :kept].float().numpy(),
        "weight": credit.weight_BT[place, :kept].float().numpy(),
        "kept": (credit.keep_BT[place, :kept] & (found.push_BT[place, :kept] != 0)).numpy(),
    }
