"""The tables of `head.py`: from what was measured to markdown."""

from __future__ import annotations

import statistics
from typing import Any

import benchtables
from benchtables import ratios, spread
from head_measure import Setting
from head_peers import HEADS

YARDSTICK = "trl"
MIB = 1 << 20
SWEPT = ("trl", "trl_rows", "ours_dense", "ours_products", "ours_torch", "ours", "ours_known")
"""Heads of the sweeps."""
GOALS = {
    "cpu": (
        ("time", "trl", "ours", ">= 2.5"),
        ("time", "ours_dense", "ours", ">= 1.9"),
        ("peak memory", "ours", "materialised", "<= 0.30"),
        ("peak memory", "ours", "trl", "<= 0.35"),
        ("logp", "ours", "trl", "<= 1"),
        ("d_hidden", "ours", "trl", "<= 1"),
        ("d_weight", "ours", "trl", "<= 1"),
    ),
    "cuda": (
        ("time", "trl", "ours", ">= 2.2"),
        ("time", "liger", "ours", ">= 1.8"),
        ("time", "verl_triton", "ours", ">= 3.0"),
        ("peak memory", "ours", "trl", "<= 0.45"),
        ("of the product's rate", "ours", "", ">= 85 %"),
        ("logp", "ours", "", "<= 1e-3"),
        ("d_hidden", "ours", "trl", "<= 1"),
        ("d_weight", "ours", "trl", "<= 1"),
    ),
}
"""What is compared, of which heads, and what was aimed at; errors are those of the gate."""


def titled(setting: Setting) -> str:
    """Return a setting as words."""
    return ", ".join(_parts(setting))


def _parts(setting: Setting) -> list[str]:
    parts = [setting.dtype, f"N {setting.tokens}", f"H {setting.hidden}", f"V {setting.words}"]
    parts += [f"share {setting.share:g}"]
    parts += [f"T {setting.temperature:g}"] if setting.temperature != 1 else []
    parts += ["frozen head"] if setting.frozen else []
    parts += ["W.grad unset"] if not setting.grad_exists else []
    parts += ["selected by threshold"] if setting.threshold else []
    return parts


def useful(found: dict[str, Any], name: str) -> list[float]:
    """Return the rate of the operations that are needed as a share of the faster product's rate, per round."""
    setting, seconds = found["setting"], found["seconds"]
    needed = (0 if HEADS[name].known else 2) + (4 if setting["frozen"] else 6) * setting["share"]
    bare = min((values for key, values in seconds.items() if key.startswith("product")), key=statistics.median)
    return [value * needed / 2 for value in ratios(bare, seconds[name])]


def over(found: dict[str, Any], top: str, bottom: str) -> str:
    """Return the spread of a ratio of times, or a dash where one was not timed."""
    seconds = found["seconds"]
    return spread(ratios(seconds[top], seconds[bottom])) if top in seconds and bottom in seconds else "-"


def rows_of(found: dict[str, Any], names: list[str]) -> list[list[str]]:
    """Return the rows of the time and memory table."""
    setting, rows = found["setting"], []
    weight = setting["words"] * setting["hidden"] * (4 if setting["dtype"] == "float32" else 2)
    for name in names:
        title = HEADS[name].title(setting["device"])
        if name in found["left_out"]:
            rows.append([title, f"not timed: {found['left_out'][name]}", *["-"] * 5])
            continue
        grown = found["peaks"].get(name, "-")
        memory = [f"{x / MIB:.0f}" for x in (grown, grown - weight)] if isinstance(grown, int) else [grown, "-"]
        differ = f"{found['differ'][name]} of {found['chosen']}" if name in found["differ"] else "-"
        rate = f"{100 * statistics.median(useful(found, name)):.0f} %"
        rows.append([title, spread(found["seconds"][name], 3), over(found, YARDSTICK, name), rate, *memory, differ])
    return rows


def report(found: dict[str, Any]) -> str:
    """Return the tables of a setting."""
    setting, names = (
        Setting(**found["setting"]),
        [name for name in HEADS if name in found["errors"] | found["left_out"]],
    )
    unit = "CPU s" if setting.device == "cpu" else "s"
    header = ["head", unit, "TRL's time / its", "of the product's rate", "peak MiB", "without dW", "own set differs"]
    header = header if found["peaks"] else [*header[:4], header[6]]
    cut = (lambda row: row) if found["peaks"] else (lambda row: [*row[:4], row[6]])
    main, apart = ([n for n in names if HEADS[n].known == known] for known in (False, True))
    volume = 2 * setting.tokens * setting.hidden * setting.words
    speeds = [
        f"{volume / statistics.median(values) / 1e9:.0f} GFLOP/s by {key.partition(': ')[2]}"
        for key, values in found["seconds"].items() if key.startswith("product")
    ]  # fmt: skip
    speed = found["copied"] / statistics.median(found["seconds"]["copy"]) / 1e9
    low, middle, high = found["entropies"]
    lines = [
        f"## {titled(setting)}",
        f"{found['rounds']} rounds. Bare product: {', '.join(speeds)}; copy {speed:.0f} GB/s. Entropies "
        f"{low:.2f} to {high:.2f} nats, median {middle:.2f}; {found['chosen']} rows selected.",
        benchtables.table(header, [cut(row) for row in rows_of(found, main)]),
    ]
    if setting.device == "cpu" and setting.dtype == "bfloat16":
        lines.append(
            "On a CPU bfloat16 shows errors and direction only: some heads widen products to float32 there, ours "
            "among them; on a GPU none does."
        )
    if apart:
        lines += [
            "Apart, since it is another task: the selection is known beforehand, only selected rows enter the head, "
            "and no other token gets a log-prob or an entropy.",
            benchtables.table(header, [cut(row) for row in rows_of(found, apart)]),
        ]
    names = [name for name in names if name in found["errors"]]
    cells = [
        [
            HEADS[n].title(setting.device),
            *("-" if x is None else "0" if x == 0 else f"{x:.1e}" for x in found["errors"][n].values()),
        ]
        for n in names
    ]
    heads = ["head, against float64", "log-prob, largest", "entropy, nats", "dh, relative", "dW, relative", "set, nats"]
    return "\n\n".join([*lines, benchtables.table(heads, cells)])


def goals(results: list[dict[str, Any]], device: str) -> str:
    """Return what was aimed at and what was measured, a column a setting."""
    rows = []
    for kind, top, bottom, goal in GOALS[device]:
        cells = [_reached(found, kind, top, bottom) for found in results]
        what = kind if kind in ("time", "peak memory") or not bottom else f"{kind} error"
        pair = " / ".join(HEADS[name].title(device) for name in (top, bottom) if name)
        rows.append([f"{what}: {pair}", goal, *cells])
    shapes = [f"N {f['setting']['tokens']}, H {f['setting']['hidden']}, V {f['setting']['words']}" for f in results]
    return "## Goals\n\n" + benchtables.table(["", "goal", *shapes], rows)


def _reached(found: dict[str, Any], kind: str, top: str, bottom: str) -> str:
    if kind == "time":
        return over(found, top, bottom)
    if kind == "of the product's rate":
        return f"{100 * statistics.median(useful(found, top)):.0f} %" if top in found["seconds"] else "-"
    values = found["peaks"] if kind == "peak memory" else {n: e[kind] for n, e in found["errors"].items()}
    a, b = values.get(top), values.get(bottom) if bottom else 1
    if not all(isinstance(x, int | float) for x in (a, b)):
        return "-"
    return f"{a / b:.2f}" if bottom else f"{a:.1e}"


def sweep_table(results: list[dict[str, Any]], base: Setting) -> str:
    """Return TRL's time over each head's, a row a setting."""
    timed = [n for n in SWEPT if n != YARDSTICK and any(n in found["seconds"] for found in results)]
    rows = []
    for found in results:
        changed = [part for part in _parts(Setting(**found["setting"])) if part not in _parts(base)]
        trl = spread(found["seconds"][YARDSTICK], 3) if YARDSTICK in found["seconds"] else "-"
        rows.append([", ".join(changed) or "as it is", trl, *(over(found, YARDSTICK, name) for name in timed)])
    titles = {name: HEADS[name].title(base.device) for name in HEADS}
    left = {titles[n]: why for found in results for n, why in found["left_out"].items()}
    note = "".join(f"\n\nNot timed: {name}: {why}." for name, why in left.items())
    about = f"## Sweeps: TRL's time over each head's\n\nFrom {titled(base)}; {results[0]['rounds']} rounds each.\n\n"
    return about + benchtables.table(["changed", "TRL's seconds", *(titles[n] for n in timed)], rows) + note
