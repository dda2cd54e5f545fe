"""What one pass over a trace of ten million tokens costs: CPU time on one core, and memory.

    python benchmarks/trace_stats.py [--tokens 10000000] [--rounds 5] [--out benchmarks/results]

A trace is written once: responses of about 500 tokens over a vocabulary of 30,000 texts that occur by Zipf's law,
with ids, texts, log-probs, entropies and five alternatives a token. Every measurement is a fresh process, in turn:

- `statistics`: `trace_stats` over the columns it needs: moments, quantile sketches, shares, entropy by token type;
- `entropy only`: the entropy column alone, through the same sketch;
- `everything read`: every column of the trace as batches, nothing computed;
- `arrow`: the floor, pyarrow reading the columns of `statistics` without looking at them.

Time is CPU time of the process after its imports, so starting Python is not in it; memory is the peak of the whole
process (Linux), imports included. The disk cache is warm: the file was just written. Quantiles of the sketch are held
against exact ones over the same tokens. Goal: a million tokens a second, under 1 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import benchtables

WAYS = ("statistics", "entropy only", "everything read", "arrow")
SHARES = (0.01, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999)
BATCH, LENGTH, VOCABULARY, TOP = 1 << 20, 500, 30_000, 5
GOAL_RATE, GOAL_BYTES = 1e6, 1e9


def synthetic(tokens: int, seed: int = 0) -> Iterator:
    """Yield batches of invented responses: half the tokens nearly certain, the others with a long tail."""
    import numpy as np

    from forkpoint.analyze.traces.trace import Alternatives, TraceBatch

    rng = np.random.default_rng(seed)
    texts = tuple(f" w{i}" for i in range(VOCABULARY))
    done = 0
    while done < tokens:
        lengths = rng.integers(LENGTH // 2, 3 * LENGTH // 2, size=max(1, min(BATCH, tokens - done) // LENGTH))
        n, rows = int(lengths.sum()), len(lengths)
        certain = rng.random(n) < 0.5
        entropy = np.where(certain, rng.exponential(0.003, n), rng.gamma(1.5, 0.5, n)).astype(np.float32)
        ids = np.minimum(rng.zipf(1.3, n), VOCABULARY).astype(np.int32) - 1
        top = np.sort(rng.exponential(2.0, (n, TOP)).astype(np.float32)).reshape(-1)
        blank = (None,) * rows
        yield TraceBatch(
            file="synthetic",
            unit="row",
            place_R=np.arange(rows) + 1,
            offsets_R=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            texts=texts,
            text_N=ids,
            id_N=ids,
            logp_N=-rng.exponential(entropy + 1e-6).astype(np.float32),
            entropy_N=entropy,
            entropy_kind=("exact",) * rows,
            rank_N=np.ones(n, np.int32),
            top=Alternatives(
                offsets_N=np.arange(n + 1, dtype=np.int64) * TOP,
                id_M=np.repeat(ids, TOP),
                text_M=np.repeat(ids, TOP),
                logp_M=-top,
            ),
            prompt_id=tuple(f"problem-{i // 8}" for i in range(rows)),
            sample_R=np.arange(rows, dtype=np.int32) % 8,
            step_R=np.zeros(rows, np.int64),
            prompt=("What is 6 times 7?",) * rows,
            answer=("42",) * rows,
            completion=blank,
            reward_R=rng.integers(0, 2, rows).astype(np.float64),
            verdict=blank,
            finish=("stop",) * rows,
        )
        done += n


def one(way: str, path: Path) -> dict[str, float]:
    """Return CPU seconds, peak bytes and tokens of one way, in this process."""
    import time

    import pyarrow.parquet as pq

    from forkpoint.analyze.traces.sketch import Sketch, merged, quantiles, sketch
    from forkpoint.analyze.traces.sources import open_traces
    from forkpoint.analyze.traces.stats import STATS_COLUMNS, trace_stats

    start = time.process_time()
    found: dict[str, float] = {}
    if way == "statistics":
        stats = trace_stats(open_traces(path, columns=STATS_COLUMNS))
        tokens = stats.tokens
        found = {f"p{share}": float(q) for share, q in zip(SHARES, quantiles(stats.entropy, SHARES), strict=True)}
    elif way == "entropy only":
        whole = Sketch()
        for batch in open_traces(path, columns=("entropy",)):
            whole = merged(whole, sketch(batch.entropy_N))
        tokens = whole.count
    elif way == "everything read":
        tokens = sum(batch.tokens for batch in open_traces(path))
    else:
        file = pq.ParquetFile(path, read_dictionary=["tokens.list.element"])
        columns = [*STATS_COLUMNS, "entropy_kind"]
        tokens = 0
        for group in range(file.num_row_groups):  # dictionaries change between row groups, which arrow cannot join
            for part in file.iter_batches(1024, row_groups=[group], columns=columns):
                tokens += len(part.column("entropy").values)
    seconds = time.process_time() - start
    # Not ru_maxrss: a child inherits that of its parent.
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    return found | {"seconds": seconds, "bytes": peak, "tokens": tokens}


def exact(path: Path) -> dict[str, float]:
    """Return the exact quantiles of the entropies of a trace, all in memory."""
    import numpy as np

    from forkpoint.analyze.traces.sources import open_traces

    values = np.sort(np.concatenate([batch.entropy_N for batch in open_traces(path, columns=("entropy",))]))
    ranks = {share: max(0, int(np.ceil(share * len(values))) - 1) for share in SHARES}
    return {f"p{share}": float(values[rank]) for share, rank in ranks.items()}


def child(way: str, path: Path) -> dict[str, float]:
    """Run `one` in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--trace", str(path)]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=benchtables.RESULTS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--trace", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        # One core: arrow would otherwise decode columns on all of them.
        import pyarrow as pa

        pa.set_cpu_count(1)
        pa.set_io_thread_count(1)
        print(json.dumps(one(given.way, given.trace)))
        return
    from forkpoint.analyze.traces.parquet import write_traces
    from forkpoint.analyze.traces.sketch import RELATIVE_ERROR
    from forkpoint.analyze.traces.trace import TraceInfo

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.parquet"
        responses = write_traces(path, synthetic(given.tokens), TraceInfo(kind="trace", name="synthetic"))
        size = path.stat().st_size
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for turn in range(given.rounds):
            for way in WAYS[turn % len(WAYS) :] + WAYS[: turn % len(WAYS)]:
                runs[way].append(child(way, path))
        truth = exact(path)
    rows = []
    for way, found in runs.items():
        rates = [run["tokens"] / run["seconds"] / 1e6 for run in found]
        memory = [run["bytes"] / 1e6 for run in found]
        rows.append([way, benchtables.spread(rates), benchtables.spread(memory, 0)])
    errors = {name: abs(runs["statistics"][0][name] - value) / value for name, value in truth.items()}
    where = benchtables.surroundings(threads=1, packages=("pyarrow", "numpy"))
    text = "\n\n".join(
        [
            benchtables.heading("One pass over a trace", where),
            f"{int(runs['statistics'][0]['tokens']):,} tokens, {responses:,} responses, {size / 1e6:,.0f} MB of "
            f"parquet; {given.rounds} rounds in turn, median [min, max]. "
            f"Goal: {GOAL_RATE / 1e6:g} million tokens a second per core, under {GOAL_BYTES / 1e6:,.0f} MB.",
            benchtables.table(["", "million tokens a CPU-second", "peak MB of the process"], rows),
            f"Quantiles {', '.join(f'{share:g}' for share in SHARES)} of the sketch against exact ones: largest "
            f"relative error {max(errors.values()):.1e}, stated bound {RELATIVE_ERROR:.1e}.",
        ]
    )
    print(text)
    data = {"where": where, "tokens": given.tokens, "runs": runs, "exact": truth, "errors": errors}
    benchtables.write(given.out, "trace_stats", text, data)


if __name__ == "__main__":
    main()
