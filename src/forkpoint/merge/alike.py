"""Whether checkpoints can be merged at all: same tensors, same tokens, same architecture; what differs is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forkpoint.errors import InputError, did_you_mean
from forkpoint.merge.tensors import Stored

_SETTINGS_THAT_DO_NOT_MATTER = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")
_VOCABULARIES = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt")


def check_tensors(model: Path, tensors: Mapping[str, Stored], base: Path, expected: Mapping[str, Stored]) -> None:
    """Raise `InputError` for the first tensor that only one of two checkpoints has, or that they hold differently."""
    for holder, own, others in ((model, expected, tensors), (base, tensors, expected)):
        missing = next((name for name in own if name not in others), None)
        if missing is not None:
            hint = did_you_mean(missing, others)
            raise InputError(f"{model} and {base} cannot be merged: {holder} has no tensor {missing!r} ({hint})")
    for name, stored in tensors.items():
        there, here = (f"shape {list(one.shape)} of {one.dtype}" for one in (stored, expected[name]))
        if there != here:
            raise InputError(f"{model} and {base} cannot be merged: tensor {name!r} has {there} there and {here} here")


def check_tokenizers(model: Path, base: Path) -> str:
    """Return what was compared, or raise `InputError` with the first token on which two checkpoints differ."""
    ours, theirs = base / "tokenizer.json", model / "tokenizer.json"
    if ours.is_file() and theirs.is_file():
        expected, found = _vocabulary(ours), _vocabulary(theirs)
        for token, number in expected.items():
            if found.get(token) != number:
                said = f"is {found[token]}" if token in found else "does not exist"
                raise InputError(
                    f"{model} and {base} have different tokenizers: {token!r} is {number} here and {said} there"
                )
        extra = next((token for token in found if token not in expected), None)
        if extra is not None:
            raise InputError(f"{model} and {base} have different tokenizers: {extra!r} exists there and not here")
        return "tokenizer.json"
    for name in _VOCABULARIES:
        if (base / name).is_file() and (model / name).is_file():
            if (base / name).read_bytes() != (model / name).read_bytes():
                raise InputError(f"{model} and {base} have different tokenizers: their {name} differ")
            return name
    return "none: not both checkpoints have a tokenizer"


def config_differences(model: Path, base: Path) -> dict[str, list[Any]]:
    """Return the settings on which two checkpoints' configurations differ: name -> [base, model].

    Raises:
        InputError: a configuration is missing or unreadable, or they are of different architectures.
    """
    ours, theirs = _json(base / "config.json"), _json(model / "config.json")
    if ours.get("model_type") != theirs.get("model_type"):
        kinds = f"{theirs.get('model_type')} and {ours.get('model_type')}"
        raise InputError(f"{model} and {base} cannot be merged: they are of different kinds, {kinds}")
    names = [name for name in sorted({*ours, *theirs}) if name not in _SETTINGS_THAT_DO_NOT_MATTER]
    return {name: [ours.get(name), theirs.get(name)] for name in names if ours.get(name) != theirs.get(name)}


def _vocabulary(file: Path) -> dict[str, Any]:
    """Return token -> id of a tokenizer file, and its merges by rank, whichever way the file writes them."""
    content = _json(file)
    model = content.get("model") or {}
    vocabulary = model.get("vocab") or {}
    if isinstance(vocabulary, list):  # of a unigram model: pairs of token and score
        vocabulary = {str(pair[0]): number for number, pair in enumerate(vocabulary)}
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model.get("merges") or ()]
    added = {entry["content"]: entry["id"] for entry in content.get("added_tokens") or ()}
    return {**vocabulary, **added, **{f"merge {pair}": rank for rank, pair in enumerate(merges)}}


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): give a folder with a whole checkpoint") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not valid JSON: copy it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} holds no JSON object: copy it again")
    return content
