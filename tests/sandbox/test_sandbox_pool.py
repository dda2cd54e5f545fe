import gc
import itertools
import os
import threading
import time

import pytest
from sandbox_kit import processes

from forkpoint.errors import InputError
from forkpoint.sandbox import Limits, Outcome, Pool, Trial
from forkpoint.sandbox.inside import folder
from forkpoint.sandbox.worker import WorkerError

ADD = Trial(program="def f(x): return x + 1", judge="assert candidate(1) == 2", entry="f")


@pytest.fixture(scope="module")
def pool():
    with Pool(workers=2) as made:
        yield made


def judged(pool: Pool, program: str, judge: str, entry: str | None = "f") -> Outcome:
    return pool.run(Trial(program=program, judge=judge, entry=entry))


def test_script_passes_by_its_exit_code(pool):
    outcome = pool.run(Trial(program="print(input() * 2)", stdin="é"))
    assert (outcome.passed, outcome.ran, outcome.reason, outcome.stdout) == (True, True, "passed", "éé\n")
    assert (outcome.exit_code, outcome.limit) == (0, None)
    assert 0 < outcome.cpu_s < 5
    assert outcome.wall_s > 0
    failed = pool.run(Trial(program="import sys; sys.exit(3)"))
    assert (failed.passed, failed.ran, failed.exit_code, failed.reason) == (False, True, 3, "exited with code 3")
    raised = pool.run(Trial(program="1 / 0"))
    assert raised.reason == "exited with code 1: ZeroDivisionError: division by zero"
    assert '"<program>", line 1' in raised.stderr
    assert "program.py" not in raised.stderr


@pytest.mark.parametrize(
    ("program", "judge", "reason"),
    [
        ("def f(x): return x", "assert candidate(1) == 2", "assertion failed: assert candidate(1) == 2"),
        ("def f(x): return x", "assert candidate(1) == 2, 'one'", "assertion failed: one"),
        ("def g(x): return x", "candidate(1)", "no function 'f'"),
        ("f = 3", "candidate(1)", "no function 'f'"),
        ("def f(x): 1 / 0", "candidate(1)", "ZeroDivisionError: division by zero"),
        ("def f(:", "candidate(1)", "syntax error: invalid syntax (line 1)"),
        ("1 / 0", "candidate(1)", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(0)", "pass", "exited with code 0"),
        ("import os; os._exit(0)", "pass", "exited with code 0"),
        ("import os\ndef f(x): os._exit(0)", "candidate(1)", "exited with code 0"),
        ("def f(x): return object()", "candidate(1)", "a value of type object, which cannot be judged"),
        ("def f(x): return x", "import os; os._exit(0)", "the judge exited (code 0)"),
        ("def f(x): return x", "candidate(1)\nraise SystemExit(0)", "SystemExit: 0"),
    ],
)
def test_what_fails_is_wrong_and_says_why(pool, program, judge, reason):
    outcome = judged(pool, program, judge)
    assert (outcome.passed, outcome.ran) == (False, True)
    assert reason in outcome.reason


def test_a_judge_that_cannot_be_compiled_leaves_the_answer_unjudged(pool):
    outcome = judged(pool, "def f(x): return x", "assert candidate(1) = 2")
    assert (outcome.passed, outcome.ran) == (False, False)
    assert outcome.reason.startswith("the tests cannot be compiled: invalid syntax")


def test_plain_values_travel_and_subclasses_arrive_as_their_base(pool):
    program = """
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
def f(x): return x
def g():
    P = namedtuple("P", "a b")
    d = defaultdict(list); d[1].append(2)
    class I(int): pass
    class S(str): pass
    return [Counter("aab"), OrderedDict(x=1), d, deque([1, 2]), P(1, 2), I(7), S("s")]
"""
    judge = """
import math
atoms = [None, True, 1, -5, 2**70, -2**70, 0.1, float("inf"), -0.0, 2j, "é\\ud800\\0", b"\\x00\\xff"]
many = [[1, [2]], (1, (2,)), {1: "a", (1, 2): [3]}, {1, "a"}, frozenset([1, frozenset()]), {}, (), [], set()]
for value in atoms + many:
    back = candidate(value)
    assert back == value and type(back) is type(value), value
assert math.isnan(candidate(float("nan"))) and math.copysign(1, candidate(-0.0)) == -1
assert list(map(type, candidate(x=[True, 1, 1.0]))) == [bool, int, float]
got = remote("g")()
assert got == [{"a": 2, "b": 1}, {"x": 1}, {1: [2]}, [1, 2], (1, 2), 7, "s"], got
assert [type(value) for value in got] == [dict, dict, dict, list, tuple, int, str]
"""
    outcome = judged(pool, program, judge)
    assert outcome.reason == "passed"


def test_exceptions_arrive_as_their_builtin_kind(pool):
    program = """
class Mine(KeyError): pass
def f(kind):
    if kind == "mine": raise Mine("x")
    if kind == "file": open("nowhere")
    if kind == "pipe": raise BrokenPipeError("x")
    if kind == "odd": raise UnicodeDecodeError("utf-8", b"x", 0, 1, "why")
    raise ValueError("bad")
"""
    judge = """
expected = {"mine": KeyError, "odd": ValueError, "": ValueError, "file": FileNotFoundError, "pipe": BrokenPipeError}
for kind, expected in expected.items():
    try:
        candidate(kind)
    except expected as error:
        continue
    raise AssertionError(kind)
"""
    assert judged(pool, program, judge).reason == "passed"


@pytest.mark.parametrize("kind", ["StopIteration", "StopAsyncIteration", "GeneratorExit"])
def test_an_exception_cannot_end_the_judges_loop_early(pool, kind):
    program = f"def f(x): raise {kind}"
    judge = "for got, want in zip(map(candidate, [1, 2]), [1, 2]):\n    assert got == want"
    assert not judged(pool, program, judge).passed


def test_an_exit_is_no_exception_the_judge_may_expect(pool):
    for catch in ("except Exception:", "except:"):
        judge = f"try:\n    candidate(1)\n{catch}\n    pass"
        outcome = judged(pool, "import os\ndef f(x): os._exit(0)", judge)
        assert (outcome.passed, outcome.reason) == (False, "exited with code 0")
        assert judged(pool, "def f(x): raise ValueError", judge).passed


def test_methods_and_several_functions(pool):
    program = "class Solution:\n    def twice(self, x): return 2 * x\ndef g(x): return x - 1"
    outcome = judged(pool, program, "assert candidate(2) == 4 and remote('g')(2) == 1", "Solution.twice")
    assert outcome.reason == "passed"
    assert judged(pool, program, "remote('h')(1)", None).reason == "NameError: no function 'h'"


def test_output_of_functions_is_kept(pool):
    outcome = judged(pool, "print('top')\ndef f(x): print('in f'); return 2", "assert candidate(1) == 2")
    assert (outcome.passed, outcome.stdout) == (True, "top\nin f\n")


def test_main_guard_runs_in_scripts_only(pool):
    program = "def f(x): return 2\nif __name__ == '__main__': print(input())"
    assert pool.run(Trial(program=program, stdin="x")).stdout == "x\n"
    assert judged(pool, program, "assert candidate(1) == 2").stdout == ""


def test_hostile_text(pool):
    for program in ("a = 1\0", "a = '\ud800'", "(" * 100_000, "-" * 100_000 + "1", "\ufeff" * 3):
        outcome = pool.run(Trial(program=program))
        assert (outcome.passed, outcome.ran) == (False, True)
        assert outcome.reason.startswith("syntax error")
    long = pool.run(Trial(program="a = 1\n" * 1_700_000))
    assert (long.passed, long.ran) == (False, True)
    assert long.reason == "the program has 10200000 characters, more than 1048576"
    assert judged(pool, "a = 1\n" * 100_000 + "def f(x): return 2", "assert candidate(1) == 2").passed


def test_large_input_and_large_judge(pool):
    outcome = pool.run(Trial(program="import sys; print(len(sys.stdin.read()))", stdin="x" * 5_000_000))
    assert outcome.stdout == "5000000\n"
    judge = f"DATA = {'y' * 3_000_000!r}\nassert candidate(len(DATA)) == 3000001"
    assert judged(pool, "def f(x): return x + 1", judge).passed
    outcome = judged(pool, "def f(x): return 'x' * 10**7", "candidate(1)")
    assert outcome.reason == "the program returned a value of more than 8388608 bytes, which cannot be judged"


def test_map_keeps_the_order_and_streams(pool):
    taken = itertools.count()
    last = 0

    def trials():
        nonlocal last
        for last in taken:
            yield Trial(program=f"import time; time.sleep({0.05 * (last % 2 == 0)}); print({last})")

    outcomes = pool.map(trials())
    got = [next(outcomes).stdout for _ in range(6)]
    outcomes.close()
    assert got == [f"{number}\n" for number in range(6)]
    assert last < 6 + 16 * 2
    assert list(pool.map([])) == []


def test_map_survives_an_iterable_that_raises(pool):
    def trials():
        yield ADD
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(pool.map(trials()))
    assert pool.run(ADD).passed


def test_threads_share_a_pool(pool):
    found: list[bool] = []
    threads = [threading.Thread(target=lambda: found.append(pool.run(ADD).passed)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 6


def test_a_killed_keeper_is_replaced_and_its_trial_runs_again():
    with Pool(workers=1) as pool:
        assert pool.run(ADD).passed
        first = pool._all[0]
        trial = Trial(program="import time; time.sleep(0.4); print('done')")
        killer = threading.Timer(0.15, first.process.kill)
        killer.start()
        outcome = pool.run(trial)
        assert (outcome.passed, outcome.stdout) == (True, "done\n")
        assert pool._all[0] is not first
        assert not os.path.exists(first.base)
        # Killed while idle, too.
        pool._all[0].process.kill()
        pool._all[0].process.wait()
        assert pool.run(ADD).passed
        assert len(pool._all) == 1


def test_a_keeper_killed_twice_leaves_the_trial_unjudged():
    with Pool(workers=1) as pool:
        stop = threading.Event()

        def kill():
            while not stop.wait(0.05):
                for worker in list(pool._all):
                    worker.process.kill()

        thread = threading.Thread(target=kill)
        thread.start()
        outcome = pool.run(Trial(program="import time; time.sleep(2)"))
        stop.set()
        thread.join()
        assert (outcome.passed, outcome.ran) == (False, False)
        assert outcome.reason.startswith("sandbox failed")
        assert pool.run(ADD).passed


def test_a_hanging_keeper_is_given_up(monkeypatch):
    import signal

    monkeypatch.setattr("forkpoint.sandbox.worker.GRACE_S", 0.5)
    with Pool(workers=1, limits=Limits(wall_s=1.0)) as pool:
        assert pool.run(ADD).passed
        threading.Timer(0.1, lambda: os.kill(pool._all[0].process.pid, signal.SIGSTOP)).start()
        outcome = pool.run(Trial(program="import time; time.sleep(0.3)"))
        assert outcome.passed  # by the second keeper
        assert pool.run(ADD).passed


def test_closing_leaves_nothing_behind():
    pool = Pool(workers=2)
    assert all(outcome.passed for outcome in pool.map([ADD] * 4))
    workers = list(pool._all)
    bases = [worker.base for worker in workers]
    assert bases
    assert all(processes(base) for base in bases)
    pool.close()
    assert [worker.process.returncode for worker in workers] == [0] * len(workers)  # ended, not killed
    assert [processes(base) for base in bases] == [[]] * len(bases)
    assert not any(os.path.exists(base) for base in bases)
    assert pool.run(ADD).passed  # a closed pool starts anew
    pool.close()


def test_closing_ends_a_trial_under_way():
    pool = Pool(workers=1)
    assert pool.run(ADD).passed
    base = pool._all[0].base
    threading.Timer(0.2, pool.close).start()
    began = time.monotonic()
    outcome = pool.run(Trial(program="import time; time.sleep(8)"))
    assert (outcome.passed, outcome.ran) == (False, False)
    assert time.monotonic() - began < 5
    for _ in range(100):
        if not processes(base):
            break
        time.sleep(0.02)
    assert processes(base) == []


def test_a_thread_that_waits_for_an_interrupted_keeper_finds_its_end_and_not_a_strange_descriptor():
    pool = Pool(workers=1)
    assert pool.run(ADD).passed
    worker = pool._all[0]
    worker.interrupt()
    with pytest.raises(WorkerError, match="died"):
        worker.exchange({}, 1.0)
    worker.kill()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(worker.replies)
    pool.close()


def test_no_descriptor_and_no_zombie_over_two_hundred_trials():
    def descriptors(pids):
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids if os.access(f"/proc/{pid}/fd", os.R_OK)]

    with Pool(workers=1) as pool:
        trials = [
            Trial(program="print(1)"),
            Trial(program="def f(:", judge="pass"),
            ADD,
            Trial(program="print('x' * 10**6)"),
        ]
        list(pool.map(trials))
        base = pool._all[0].base
        before = processes(base)
        ids = [os.getpid(), *(pid for pid, _ in before)]
        counts = descriptors(ids)
        for trial in trials * 50:
            pool.run(trial)
        gc.collect()
        assert descriptors(ids) == counts
        after = processes(base)
        assert {pid for pid, _ in after} == {pid for pid, _ in before}
        assert "Z" not in [state for _, state in after]


def test_a_keeper_that_cannot_make_boxes_is_replaced():
    with Pool(workers=1, layers=()) as pool:
        assert pool.run(ADD).passed
        first = pool._all[0]
        folder.remove(first.base)  # where its boxes have their folders
        assert pool.run(ADD).passed
        assert pool._all[0] is not first


def test_unreachable_start_is_unjudged_not_raised(monkeypatch):
    monkeypatch.setattr("forkpoint.sandbox.worker.sys.executable", "/nowhere/python")
    with Pool(workers=1) as pool:
        outcome = pool.run(ADD)
    assert (outcome.passed, outcome.ran) == (False, False)
    assert "a keeper cannot be started: No such file or directory" in outcome.reason


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"workers": 0}, "workers >= 1, not 0"),
        ({"layers": ("walls",)}, "no sandbox layer 'walls'"),
        ({"require": ("peace",)}, "no sandbox protection 'peace'"),
        ({"require": ("files",), "layers": ()}, "cannot protect 'write' on this machine"),
    ],
)
def test_wrong_arguments_name_the_thing(arguments, text):
    with pytest.raises(InputError, match=text):
        Pool(**arguments)


@pytest.mark.parametrize(
    "wrong",
    [{"cpu_s": 0}, {"wall_s": float("inf")}, {"memory_bytes": 1000}, {"processes": 0}, {"output_bytes": -1}],
)
def test_wrong_limits_name_the_thing(wrong):
    with pytest.raises(InputError, match=rf"Limits\.{next(iter(wrong))} is"):
        Limits(**wrong)
