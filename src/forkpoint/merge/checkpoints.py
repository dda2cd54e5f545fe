"""Merge checkpoints on disk: a tensor at a time, a block of rows at a time, into a folder that appears whole."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forkpoint.errors import InputError
from forkpoint.merge.alike import check_tensors, check_tokenizers, config_differences
from forkpoint.merge.fusion import importance, row_divergence, threshold
from forkpoint.merge.tensors import (
    FLOATS,
    Stored,
    block_bytes,
    raw_chunks,
    read_rows,
    stored_tensors,
    weight_files,
    write_tensors,
)
from forkpoint.seeds import generator
from forkpoint.train.files import disk_errors
from forkpoint.train.locate import model_path
from forkpoint.train.manifest import publish

BLOCK = 1 << 21
"""Numbers of one tensor that are held at once; a single longer row is held whole."""
SAMPLE = 1_000_000
"""Importances from which the threshold of a larger tensor is estimated, drawn with replacement."""
SHARD_BYTES = 5_000_000_000
NOTHING_COPIED = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".md", ".html", ".jsonl")
"""Files of the base that are not part of its configuration or tokenizer."""

Read = Callable[[int, int], tuple[Tensor, Tensor]]
"""Rows start to stop: their weights, and the number of the checkpoint each weight comes from (uint8)."""


@dataclass(frozen=True, kw_only=True)
class Fused:
    """One fusion of one tensor."""

    read: Read
    threshold: float
    sampled: bool
    """Whether the threshold was estimated from a sample."""


def merge(
    models: Sequence[str | Path],
    base: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Fuse checkpoints into a base and write the result as a checkpoint, with `merge.json` beside it.

    Every model is fused into the next, in the order given, and the last one into the base (`fusion.fuse`). With one
    model beside the base that is the method itself; with two it is the order of arXiv 2503.04872. Tensors that are no
    floating numbers are the base's, and so are configuration and tokenizer.

    Args:
        models: folders or run directories; the base may be among them.
        base: the checkpoint that changes are taken over into.
        out: folder to write; it must not exist, or be empty.
        seed: of the samples from which thresholds of tensors above a million numbers are estimated.
        shard_bytes: of a file of weights.
        progress: called with (finished, total) tensors.

    Returns:
        What `merge.json` holds: the checkpoints with the digests of their files, and for every tensor its thresholds
        and how many of its weights come from each checkpoint. A weight that is equal in several counts for the base.

    Raises:
        InputError: checkpoints that do not fit together, weights that are not finite, or a folder that is taken.
        TrainingError: the disk is full; nothing is left behind.
    """
    folders = _order(models, base)
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} already exists: give a folder that is not there yet")
    tensors = [stored_tensors(folder) for folder in folders]
    about = [_about(folder, tensors[i], folders[-1], tensors[-1]) for i, folder in enumerate(folders)]
    temporary = target.with_name(f".tmp-{target.name}")
    with disk_errors(f"merge {target.name}", target.parent, "no merge was written"), torch.inference_mode():
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            facts: dict[str, Any] = {}
            with ExitStack() as stack:
                files = {file: stack.enter_context(file.open("rb")) for f in folders for file in weight_files(f)}

                def chunks(name: str) -> Iterator[bytes | memoryview]:
                    yield from _tensor(name, [of[name] for of in tensors], files, seed, facts)
                    if progress is not None:
                        progress(len(facts), len(tensors[-1]))

                write_tensors(temporary, tensors[-1], chunks, shard_bytes=shard_bytes)
            _copy_settings(folders[-1], temporary)
            content = {
                "method": "W = base + [I >= median(I) + 1.5 (Q3 - Q1)] (other - base), I = |other - base| KL_row",
                "paper": "2503.04872", "seed": seed, "checkpoints": about, "base": len(folders) - 1, "tensors": facts,
            }  # fmt: skip
            (temporary / "merge.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
            if target.is_dir():
                target.rmdir()
            publish(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return content


def fused(other: Read, base: Read, stored: Stored, rng: np.random.Generator, what: str) -> Fused:
    """Return the fusion of two tensors that are read by blocks, after one pass that finds its threshold.

    Args:
        other: reads the tensor changes come from.
        base: reads the tensor they are taken over into.
        stored: shape of both.
        rng: draws the sample where the tensor is larger than `SAMPLE`.
        what: name of the tensor, for messages.
    """
    picks_S = np.sort(rng.integers(0, stored.elements, SAMPLE)) if stored.elements > SAMPLE else None
    values_S = np.empty(stored.elements if picks_S is None else SAMPLE)
    divergence_R = torch.empty(stored.rows, dtype=torch.float64)
    filled = 0
    for start, stop in spans(stored):
        other_RC, base_RC = other(start, stop)[0], base(start, stop)[0]
        divergence_R[start:stop] = row_divergence(other_RC, base_RC)
        flat = importance(other_RC, base_RC, divergence_R[start:stop]).flatten().numpy()
        if not np.isfinite(flat).all():
            raise InputError(f"tensor {what!r} holds weights that are not finite: the checkpoint has diverged")
        if picks_S is not None:
            first, last = np.searchsorted(picks_S, (start * stored.columns, stop * stored.columns))
            flat = flat[picks_S[first:last] - start * stored.columns]
        values_S[filled : filled + flat.size] = flat
        filled += flat.size
    limit = threshold(values_S)

    def read(start: int, stop: int) -> tuple[Tensor, Tensor]:
        (other_RC, from_RC), (base_RC, own_RC) = other(start, stop), base(start, stop)
        take_RC = importance(other_RC, base_RC, divergence_R[start:stop]) >= limit
        # An equal weight counts for the base, which is where it would be without the other.
        return torch.where(take_RC, other_RC, base_RC), torch.where(take_RC & (other_RC != base_RC), from_RC, own_RC)

    return Fused(read=read, threshold=limit, sampled=picks_S is not None)


def spans(stored: Stored) -> Iterator[tuple[int, int]]:
    """Yield row ranges of about `BLOCK` numbers each."""
    rows = max(1, BLOCK // max(1, stored.columns))
    for start in range(0, stored.rows, rows):
        yield start, min(start + rows, stored.rows)


def _tensor(
    name: str, stored: Sequence[Stored], files: Mapping[Path, Any], seed: int, facts: dict[str, Any]
) -> Iterator[bytes | memoryview]:
    """Yield the bytes of one merged tensor and put down where its weights come from."""
    if stored[-1].dtype not in FLOATS or not stored[-1].elements:
        facts[name] = {"copied": True}
        yield from raw_chunks(files[stored[-1].file], stored[-1])
        return
    steps: list[Fused] = []
    read = _reader(files, stored[0], 0)
    for number, one in enumerate(stored[1:], start=1):
        rng = generator(seed, "merge", number, name)
        steps.append(fused(read, _reader(files, one, number), one, rng, name))
        read = steps[-1].read
    taken = np.zeros(len(stored), dtype=np.int64)
    for start, stop in spans(stored[-1]):
        block, origin = read(start, stop)
        taken += np.bincount(origin.flatten().numpy(), minlength=len(stored))
        yield block_bytes(block)
    facts[name] = {
        "from": taken.tolist(), "thresholds": [step.threshold for step in steps],
        "sampled": any(step.sampled for step in steps),
    }  # fmt: skip


def _reader(files: Mapping[Path, Any], stored: Stored, number: int) -> Read:
    def read(start: int, stop: int) -> tuple[Tensor, Tensor]:
        block = read_rows(files[stored.file], stored, start, stop)
        return block, torch.full(block.shape, number, dtype=torch.uint8)

    return read


def _order(models: Sequence[str | Path], base: str | Path) -> list[Path]:
    """Return the folders in the order in which they are fused, the base last."""
    last = Path(model_path(base)).expanduser()
    others = [Path(model_path(model)).expanduser() for model in models]
    for folder in (*others, last):
        if not folder.is_dir():
            raise InputError(f"there is no checkpoint folder {folder}: download a model of the hub first")
    order = [folder for folder in others if folder.resolve() != last.resolve()]
    if not order or len({folder.resolve() for folder in order}) < len(order):
        raise InputError("a merge needs a base and at least one other checkpoint, each named once")
    return [*order, last]


def _about(folder: Path, tensors: Mapping[str, Stored], base: Path, expected: Mapping[str, Stored]) -> dict[str, Any]:
    """Return what is to be known of a checkpoint, after refusing one that does not fit the base."""
    differences: dict[str, Any] = {}
    tokens = "base"
    if folder != base:
        differences = config_differences(folder, base)
        check_tensors(folder, tensors, base, expected)
        tokens = check_tokenizers(folder, base)
    files = {}
    for file in weight_files(folder):
        with file.open("rb") as opened:
            files[file.name] = hashlib.file_digest(opened, "sha256").hexdigest()
    return {
        "path": str(folder), "sha256": files, "tokenizer_compared": tokens, "config_differences": differences,
    }  # fmt: skip


def _copy_settings(base: Path, folder: Path) -> None:
    for file in sorted(base.iterdir()):
        skipped = file.name.startswith(".") or file.name in ("trainer.json", "merge.json")
        if file.is_file() and not skipped and not file.name.endswith((*NOTHING_COPIED, ".index.json")):
            shutil.copyfile(file, folder / file.name)
