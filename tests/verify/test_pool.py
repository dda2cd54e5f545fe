"""Worker processes: order, deadlines, deaths, no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from forkpoint.errors import InputError, TrainingError
from forkpoint.verify import pool as pool_module
from forkpoint.verify.pool import Outcome, VerifierPool


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def pids(pool: VerifierPool) -> list[int]:
    return [worker.process.pid for worker in pool._workers]


def test_values_come_in_order_and_processes_start_with_the_first_item():
    with VerifierPool("math:sqrt", workers=2) as pool:
        assert pool.map([]) == []
        assert pids(pool) == []
        assert [o.value for o in pool.map([n * n for n in range(50)])] == list(range(50))
        started = pids(pool)
        assert 1 <= len(started) <= 2
        assert pool.map([4])[0] == Outcome(value=2.0)
        assert set(started) <= set(pids(pool))
    assert not any(alive(pid) for pid in started)
    assert pids(pool) == []


def test_a_pool_that_was_closed_starts_again():
    pool = VerifierPool("math:sqrt", workers=1)
    pool.close()
    assert pool.map([9])[0].value == 3.0
    pool.close()
    assert pool.map([16])[0].value == 4.0
    pool.close()


def test_an_exception_belongs_to_its_item():
    with VerifierPool("math:sqrt", workers=1) as pool:
        first, second, third = pool.map([1, -1, 4])
    assert (first.value, third.value) == (1.0, 2.0)
    assert second == Outcome(failure="ValueError: math domain error")


def test_a_late_item_is_cut_off_and_the_others_are_judged():
    with VerifierPool("time:sleep", workers=2, deadline=1.0) as pool:
        pool.map([0, 0])
        start = time.monotonic()
        outcomes = pool.map([0, 60, 0.01, 60, 0])
        assert time.monotonic() - start < 20
        # A killed worker has a successor at once, so that no later item waits for an import.
        assert len(pids(pool)) == 2
    assert [o.failure for o in outcomes] == ["", "deadline", "", "deadline", ""]


def test_code_that_holds_the_interpreter_lock_is_cut_off_too():
    with VerifierPool("builtins:eval", workers=1, deadline=0.4) as pool:
        outcomes = pool.map(["1 + 1", "9 ** 9 ** 8 % 7", "2 + 2"])
    assert outcomes == [Outcome(value=2), Outcome(failure="deadline"), Outcome(value=4)]


def test_an_item_that_kills_its_worker_is_tried_twice_and_reported():
    with VerifierPool("os:_exit", workers=2) as pool:
        assert pool.map([3, 0]) == [Outcome(failure="died")] * 2
    with VerifierPool("builtins:eval", workers=1) as pool:
        assert pool.map(["__import__('os')._exit(1)", "5"]) == [Outcome(failure="died"), Outcome(value=5)]


def test_a_worker_killed_from_outside_costs_nothing():
    with VerifierPool("time:sleep", workers=1, deadline=30) as pool:
        pool.map([0])
        (victim,) = pids(pool)
        threading.Timer(0.3, os.kill, (victim, signal.SIGKILL)).start()
        assert pool.map([1, 0]) == [Outcome(), Outcome()]
        assert victim not in pids(pool)


def test_an_idle_worker_that_died_is_replaced():
    with VerifierPool("math:sqrt", workers=1) as pool:
        pool.map([1])
        (victim,) = pids(pool)
        os.kill(victim, signal.SIGKILL)
        assert pool.map([4])[0].value == 2.0


def test_an_item_larger_than_a_pipe_arrives():
    with VerifierPool("builtins:len", workers=1) as pool:
        assert [o.value for o in pool.map(["x" * 1_000_000, "y"])] == [1_000_000, 1]


def test_an_interrupted_map_leaves_no_answer_behind(monkeypatch):
    with VerifierPool("time:sleep", workers=1, deadline=30) as pool:
        pool.map([0])

        def interrupt():
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(pool, "_poll", interrupt)
            with pytest.raises(KeyboardInterrupt):
                pool.map([0.2])
        assert pids(pool) == []
        assert pool.map([0]) == [Outcome()]


def test_memory_is_capped():
    with VerifierPool("builtins:eval", workers=1, memory=1 << 30) as pool:
        (outcome,) = pool.map(["len(bytearray(2 << 30))"])
    assert outcome.failure.startswith("MemoryError")


def test_prepare_runs_before_the_first_item_and_outside_its_deadline():
    with VerifierPool("builtins:eval", workers=1, deadline=1.0, prepare="forkpoint.verify.symbolic:prepare") as pool:
        loaded = pool.map([f"{name!r} in __import__('sys').modules" for name in ("math_verify", "torch")])
    assert [o.value for o in loaded] == [True, False], "a worker that imports torch starts slowly"


def test_printing_does_not_disturb_the_protocol():
    with VerifierPool("builtins:print", workers=1) as pool:
        assert pool.map(["noise", "more"]) == [Outcome(), Outcome()]


def test_a_target_that_cannot_be_imported_is_an_error_not_a_hang():
    with VerifierPool("no_such_module:f") as pool, pytest.raises(TrainingError, match="no_such_module"):
        pool.map([1])


def test_workers_that_end_before_they_are_ready_are_not_started_for_ever(monkeypatch):
    started = []
    start = pool_module._start
    monkeypatch.setattr(pool_module, "_start", lambda arguments: started.append(1) or start(arguments))
    with (
        VerifierPool("math:sqrt", workers=1, prepare="os:abort") as pool,
        pytest.raises(TrainingError, match="ended 3 times"),
    ):
        pool.map([1])
    assert len(started) == 3


def test_only_importable_functions_and_positive_numbers():
    with pytest.raises(InputError, match="top level of an importable module"):
        VerifierPool(lambda item: item)
    with pytest.raises(InputError, match="workers >= 1"):
        VerifierPool("math:sqrt", workers=0)
    with pytest.raises(InputError, match="deadline > 0"):
        VerifierPool("math:sqrt", deadline=0)


SCRIPT = """
from forkpoint.verify.pool import VerifierPool
pool = VerifierPool("math:sqrt", workers=2)
print([o.value for o in pool.map([1, 4, 9])], *(w.process.pid for w in pool._workers), flush=True)
"""


@pytest.mark.parametrize("way", ["script", "command"])
def test_a_program_without_a_main_guard_ends_and_leaves_nothing(way, tmp_path):
    script = tmp_path / "plain.py"
    script.write_text(SCRIPT)
    arguments = [str(script)] if way == "script" else ["-c", SCRIPT]
    result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    values, _, workers = result.stdout.partition("] ")
    assert values == "[1.0, 2.0, 3.0"
    assert not any(alive(int(pid)) for pid in workers.split())


def test_idle_workers_end_when_the_parent_is_killed():
    code = SCRIPT + "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == -signal.SIGKILL
    workers = [int(pid) for pid in result.stdout.partition("] ")[2].split()]
    assert workers
    until = time.monotonic() + 10
    while any(alive(pid) for pid in workers) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(alive(pid) for pid in workers)


def test_a_busy_worker_ends_by_its_own_alarm_when_nobody_kills_it():
    arguments = ["builtins:eval", "", "0.5", str(4 << 30)]
    worker = subprocess.Popen(
        [sys.executable, "-m", "forkpoint.verify.worker", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with worker:
        worker.stdin.write(b'"9 ** 9 ** 8 % 7"\n')
        worker.stdin.flush()
        assert worker.wait(timeout=60) == -signal.SIGALRM
