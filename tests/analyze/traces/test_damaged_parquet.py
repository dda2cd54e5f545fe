"""Damaged parquet ends in a sentence: in a process of its own, since arrow may end the whole process."""

import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forkpoint.analyze.traces.sources import open_traces

READ_ALL = """
import sys
from pathlib import Path
from forkpoint.analyze.traces.sources import open_traces
from forkpoint.errors import InputError

for path in sorted(Path(sys.argv[1]).glob("*.parquet")):
    try:
        print(path.name, sum(batch.responses for batch in open_traces(path)))
    except InputError as error:
        print(path.name, error)
"""


@pytest.fixture
def whole(tmp_path):
    """Return the bytes of a readable file."""
    path = tmp_path / "whole"
    columns = {
        "tokens": [["a", "b"], ["c"]] * 20,
        "logp": [[-0.5, -1.0], [-0.2]] * 20,
        "entropy": [[0.5, 1.0], [0.2]] * 20,
    }
    pq.write_table(pa.table(columns), path)
    return path.read_bytes()


def test_metadata_that_arrow_would_end_the_process_over(whole, tmp_path):
    """Say of one column after the other that its values cannot be null, which its statistics contradict."""
    foot = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    nullable, never = b"%\x02\x18\x07element", b"%\x00\x18\x07element"
    places = [at for at in range(foot, len(whole)) if whole.startswith(nullable, at)]
    if len(places) != 3:
        pytest.skip("this arrow writes its footers another way")
    for number, at in enumerate(places):
        damaged = whole[:at] + never + whole[at + len(never) :]
        (tmp_path / f"{number}.parquet").write_bytes(damaged)
    for number, part in enumerate(
        (whole[:-9], whole[:-8] + b"\xff\xff\xff\xffPAR1", whole[:4] + whole[foot:], b"PAR1")
    ):
        (tmp_path / f"cut{number}.parquet").write_bytes(part)
    found = subprocess.run([sys.executable, "-c", READ_ALL, str(tmp_path)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    said = dict(line.split(" ", 1) for line in found.stdout.splitlines())
    assert len(said) == 7
    assert all("copy it again" in text for text in said.values()), said


def test_batches_still_hold_about_so_many_tokens(whole, tmp_path):
    (tmp_path / "t.parquet").write_bytes(whole)
    sizes = [batch.tokens for batch in open_traces(tmp_path / "t.parquet", batch_tokens=15)]
    assert sum(sizes) == 60
    assert sizes == [15, 15, 15, 15]
