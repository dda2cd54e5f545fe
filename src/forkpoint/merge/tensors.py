"""Safetensors files read and written by blocks, so that no tensor is ever held whole.

The format: eight bytes with the length of a JSON header, the header (dtype, shape and byte range of every tensor), and
the bytes. The library validates every file that is read; it writes only what is in memory, so writing is done here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from forkpoint.errors import InputError

FLOATS: Mapping[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
}  # fmt: skip
"""Dtypes whose values can be fused, by their names in the format."""
NOT_WEIGHTS = ("trainer.safetensors",)
"""Files of a checkpoint that hold the state of its trainer."""
CHUNK_BYTES = 1 << 24
"""Bytes of a tensor that are copied at a time where nothing is computed."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One tensor in a file."""

    file: Path
    dtype: str
    """As the format names it, such as `BF16`."""
    shape: tuple[int, ...]
    start: int
    """Of its first byte in the file."""
    bytes: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def columns(self) -> int:
        """Length of the last dimension; of the whole for a vector or a scalar."""
        return self.shape[-1] if len(self.shape) > 1 else self.elements

    @property
    def rows(self) -> int:
        """Number of rows along the last dimension; one for a vector or a scalar."""
        return self.elements // self.columns if self.columns else 0


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold a checkpoint's weights.

    Raises:
        InputError: there is none, or the folder holds an adapter alone.
    """
    if (folder / "adapter_config.json").is_file():
        raise InputError(f"{folder} holds an adapter and no whole model: merge it into its model first")
    found = [file for file in sorted(folder.glob("*.safetensors")) if file.name not in NOT_WEIGHTS]
    if not found:
        raise InputError(f"{folder} holds no weights: a checkpoint needs model.safetensors or its shards")
    return found


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Return where every tensor of a checkpoint lies, by name, in the order of files and bytes.

    Raises:
        InputError: no weights, a damaged file, or a tensor that two files hold; the file is named.
    """
    from safetensors import SafetensorError, safe_open

    found: dict[str, Stored] = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file} is damaged ({error}): copy it again") from error
        for name, stored in _header(file).items():
            if name in found:
                raise InputError(f"{folder} holds tensor {name!r} twice, in {found[name].file.name} and {file.name}")
            found[name] = stored
    return found


def _header(file: Path) -> dict[str, Stored]:
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header: dict[str, Any] = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    return {
        name: Stored(
            file=file,
            dtype=entry["dtype"],
            shape=tuple(entry["shape"]),
            start=8 + length + entry["data_offsets"][0],
            bytes=entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"][0])
    }


def read_rows(opened: BinaryIO, stored: Stored, start: int, stop: int) -> Tensor:
    """Return rows start to stop of a floating tensor, in its own dtype, without touching the others."""
    width = stored.columns * FLOATS[stored.dtype].itemsize
    opened.seek(stored.start + start * width)
    data = bytearray(opened.read((stop - start) * width))
    return torch.frombuffer(data, dtype=FLOATS[stored.dtype]).view(stop - start, stored.columns)


def raw_chunks(opened: BinaryIO, stored: Stored) -> Iterator[bytes]:
    """Yield the bytes of a tensor of any dtype."""
    opened.seek(stored.start)
    left = stored.bytes
    while left:
        chunk = opened.read(min(left, CHUNK_BYTES))
        left -= len(chunk)
        yield chunk


def write_tensors(
    folder: Path,
    tensors: Mapping[str, Stored],
    chunks: Callable[[str], Iterable[bytes | memoryview]],
    *,
    shard_bytes: int,
) -> list[Path]:
    """Write tensors whose bytes come a chunk at a time, as `model.safetensors` or as shards with their index.

    Args:
        folder: where to; it exists.
        tensors: dtype and shape of each, by name.
        chunks: the bytes of the tensor of a name, in order.
        shard_bytes: of a file at most, unless one tensor is larger.

    Returns:
        The files of weights.
    """
    shards = _shards(tensors, shard_bytes)
    files = [
        folder / ("model.safetensors" if len(shards) == 1 else f"model-{i:05d}-of-{len(shards):05d}.safetensors")
        for i in range(1, len(shards) + 1)
    ]
    for file, names in zip(files, shards, strict=True):
        with file.open("wb") as opened:
            opened.write(_header_bytes({name: tensors[name] for name in names}))
            for name in names:
                for chunk in chunks(name):
                    opened.write(chunk)
    if len(files) > 1:
        index = {
            "metadata": {"total_size": sum(stored.bytes for stored in tensors.values())},
            "weight_map": {name: file.name for file, names in zip(files, shards, strict=True) for name in names},
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    return files


def block_bytes(block: Tensor) -> memoryview:
    """Return the bytes of a tensor, sharing its memory."""
    return block.contiguous().flatten().view(torch.uint8).numpy().data


def _shards(tensors: Mapping[str, Stored], limit: int) -> Sequence[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, stored in tensors.items():
        if shards[-1] and size + stored.bytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += stored.bytes
    return shards


def _header_bytes(tensors: Mapping[str, Stored]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, stored in tensors.items():
        header[name] = {
            "dtype": stored.dtype, "shape": list(stored.shape), "data_offsets": [end, end + stored.bytes],
        }  # fmt: skip
        end += stored.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the bytes of the first tensor start at a multiple of eight
    return len(text).to_bytes(8, "little") + text
