"""Right answers are not judged wrong, and faults of tests are not judged at all."""

import os
import signal
import sys
import threading
import time

import pytest
from sandbox_kit import ALL, need, processes

from forkpoint.sandbox import Limits, Outcome, Pool, Trial

PROGRAM = "def f(x): return x\ndef none(x): return None\ndef long(x): return 'x' * x"


@pytest.fixture(scope="module")
def pool():
    with Pool(workers=1) as made:
        yield made


def judged(pool: Pool, program: str, judge: str, entry: str | None = "f") -> Outcome:
    return pool.run(Trial(program=program, judge=judge, entry=entry))


@pytest.mark.parametrize(
    "judge",
    [
        "",
        "def test_f():\n    assert f(1) == 2",
        "def check(candidate):\n    assert candidate(1) == 2",
        "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        self.assertEqual(candidate(1), 2)",
        "calls = candidate, remote('f')",
        "try:\n    candidate(len)\nexcept Exception:\n    pass",
    ],
)
def test_tests_that_never_call_the_program_judge_nothing(pool, judge):
    outcome = judged(pool, PROGRAM, judge)
    assert (outcome.passed, outcome.ran) == (False, False)
    assert outcome.reason.startswith(
        "the tests pass a value of type" if "len" in judge else "the tests never called the program"
    )


@pytest.mark.parametrize(
    ("judge", "why"),
    [
        ("assert got(1) == 1", "NameError: name 'got' is not defined"),
        ("import numpy", "ModuleNotFoundError: No module named 'numpy'"),
        ("len(5)\nassert candidate(1) == 1", "TypeError: object of type 'int' has no len()"),
        ("assert 0, 'the reference fails'\ncandidate(1)", "assertion failed: the reference fails"),
        ("exec('1 +')", "SyntaxError: invalid syntax"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("x = bytearray(1 << 40)", "memory limit"),
    ],
)
def test_what_fails_before_the_first_call_is_not_judged(pool, judge, why):
    outcome = judged(pool, PROGRAM, judge)
    assert (outcome.passed, outcome.ran, outcome.limit) == (False, False, None)
    assert outcome.reason.startswith(f"the tests fail before they call the program: {why}")


@pytest.mark.parametrize(
    ("argument", "why"),
    [
        ("lambda x: x", "a value of type function"),
        ("range(3)", "a value of type range"),
        ("'x' * (9 << 20)", "a value of more than 8388608 bytes"),
        ("key=print", "a value of type builtin_function_or_method"),
    ],
)
def test_arguments_that_cannot_travel_are_the_tests_fault_until_the_program_has_answered(pool, argument, why):
    outcome = judged(pool, PROGRAM, f"assert candidate({argument}) == 3")
    assert (outcome.passed, outcome.ran) == (False, False)
    assert outcome.reason == f"the tests pass {why}, which cannot travel"
    # Not even caught it is a way to pass, and after an answer it may be the answer's doing.
    later = judged(pool, PROGRAM, f"candidate(1)\ntry:\n    candidate({argument})\nexcept Exception:\n    pass")
    assert (later.passed, later.ran, later.reason) == (False, True, f"an argument is {why}, which cannot travel")


@pytest.mark.parametrize(
    "judge",
    [
        "assert sum(remote('none')(1)) == 2",
        "for value in remote('none')(1): pass",
        "try:\n    got = remote('nowhere')(1)\nexcept Exception:\n    pass\nassert got == 2",
        "assert candidate(1) == 2, message",
        "candidate(1)\nimport nowhere",
        "candidate(remote('long')(5 << 20) * 2)",
        "exec(remote('f')('1 +'))",
    ],
)
def test_an_answer_cannot_make_itself_unjudged(pool, judge):
    outcome = judged(pool, PROGRAM, judge)
    assert (outcome.passed, outcome.ran) == (False, True), outcome


def test_tests_at_fault_cost_no_keeper_and_no_second_run():
    with Pool(workers=1) as pool:
        assert judged(pool, PROGRAM, "assert candidate(1) == 1").passed
        keeper = pool._all[0]
        # The last ones often end before the program's box stands.
        for judge in ("pass", "nowhere", "candidate(len)", *["1 ="] * 20):
            outcome = judged(pool, PROGRAM, judge)
            assert outcome.ran is False
            assert outcome.reason.startswith("the tests ")
        assert pool._all == [keeper]


def test_a_judge_that_gives_up_waiting_does_not_pass(pool):
    judge = """
import signal
def late(*_): raise RuntimeError
signal.signal(signal.SIGALRM, late)
signal.setitimer(signal.ITIMER_REAL, 0.1)
try:
    candidate(1)
except RuntimeError:
    pass
"""
    outcome = judged(pool, "import time\ndef f(x): time.sleep(5)", judge)
    assert (outcome.passed, outcome.ran) == (False, True)
    assert outcome.reason == "no call of the program came to its end"


def test_the_text_of_an_exception_arrives_as_it_is(pool):
    program = """
class Mine(ValueError): pass
class Quoted(KeyError): pass
class Own(Exception):
    def __init__(self, a): self.a = a
    def __str__(self): return f"own {self.a}"
class OwnKey(KeyError):
    def __str__(self): return "own key"
kinds = {
    "value": ValueError("bad"), "mine": Mine("bad"), "key": KeyError("bad"), "quoted": Quoted("bad"), "own": Own(3),
    "own key": OwnKey(4), "two": TypeError("a", 2), "none": IndexError(), "file": FileNotFoundError(2, "gone"),
    "code": UnicodeDecodeError("utf-8", b"x", 0, 1, "why"), "long": ValueError("x" * 5000), "object": ValueError(len),
    "lines": ValueError("a\\nb"), "assert": AssertionError("bad"), "exit": SystemExit(3),
    "huge": OSError(5, "x" * ((8 << 20) - 99)),
}
def f(kind): raise kinds[kind]
"""
    judge = """
expected = {
    "value": (ValueError, "bad"), "mine": (ValueError, "bad"), "key": (KeyError, "'bad'"),
    "quoted": (KeyError, "'bad'"), "own": (Exception, "own 3"), "own key": (KeyError, "own key"),
    "two": (TypeError, "('a', 2)"),
    "none": (IndexError, ""), "file": (FileNotFoundError, "[Errno 2] gone"), "lines": (ValueError, "a\\nb"),
    "code": (UnicodeDecodeError, "'utf-8' codec can't decode byte 0x78 in position 0: why"),
    "long": (ValueError, "x" * 5000), "object": (ValueError, "<built-in function len>"),
    "assert": (AssertionError, "bad"), "exit": (RuntimeError, "3"),
    "huge": (OSError, ("[Errno 5] " + "x" * (1 << 16))[:1 << 16]),
}
for name, (kind, text) in expected.items():
    try:
        candidate(name)
    except Exception as error:
        assert isinstance(error, kind) and type(error).__name__ == kind.__name__, (name, type(error))
        assert str(error) == text, (name, str(error))
        if name in ("value", "key", "mine"): assert error.args == ("bad",), error.args
        if name == "file": assert error.errno == 2
    else:
        raise AssertionError(name)
"""
    assert judged(pool, program, judge).reason == "passed"
    shown = {
        "mine": "Mine: bad", "key": "KeyError: 'bad'", "own": "Own: own 3", "exit": "SystemExit: 3",
        "lines": "ValueError: a b", "assert": "assertion failed: AssertionError: bad", "none": "IndexError:",
    }  # fmt: skip
    for name, reason in shown.items():
        assert judged(pool, program, f"candidate({name!r})").reason == reason


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        ("print(9)\nexit()\nprint(8)", "9\n"),
        ("print(9)\nquit(0)", "9\n"),
        ("copyright; credits; license; help\nprint(9)", "9\n"),
        ("out = open(1, 'w')\nout.write('9')", "9"),
        ("import os\nout = os.fdopen(1, 'w')\nprint(9, file=out)", "9\n"),
        ("import sys, io\nout = io.TextIOWrapper(sys.stdout.buffer)\nprint(9, file=out)", "9\n"),
        ("import sys, io\nold = sys.stdout\nsys.stdout = io.StringIO()\nold.write('9')", "9"),
        ("import sys, io\nsys.stdout = io.StringIO()\nsys.__stdout__.write('9')", "9"),
        ("class A:\n    def __del__(self):\n        print(word)\nword = 9\na = A()", "9\n"),
        ("class A:\n    def __del__(self):\n        print(9)\na = A()\na.a = a", "9\n"),
        ("def g():\n    try:\n        yield 1\n    finally:\n        print(9)\nx = g()\nnext(x)", "9\n"),
        ("import sys\nsys.kept = sys.modules['__main__']\nout = open(1, 'w')\nout.write('9')", "9"),
        ("import ctypes\nctypes.CDLL(None).printf(b'9')", "9"),
        ("out = open(1, 'w', closefd=False)\nout.write('9')\n1 / 0", "9"),
        ("import sys\nout = open(1, 'w', closefd=False)\nout.write('9')\nsys.exit(3)", "9"),
    ],
)
def test_what_an_interpreter_would_print_is_printed(pool, program, printed):
    outcome = pool.run(Trial(program=program))
    assert outcome.stdout == printed, outcome
    assert outcome.passed is ("1 / 0" not in program and "exit(3)" not in program)


@pytest.mark.parametrize(
    ("code", "limit", "wall_s"),
    [("while True: pass", "cpu", 20), ("import time; time.sleep(60)", "wall", 0.8), ("print(A)", "output", 20)],
)
def test_the_end_of_a_program_is_within_its_limits(code, limit, wall_s):
    program = f"A = 'x' * 5000\nclass End:\n    def __del__(self):\n        {code}\nend = End()"
    with Pool(workers=1, limits=Limits(cpu_s=0.3, wall_s=wall_s, output_bytes=1000)) as pool:
        outcome = pool.run(Trial(program=program))
    assert (outcome.passed, outcome.limit) == (False, limit)


@pytest.mark.skipif(sys.platform != "linux", reason="the layers are Linux's")
@pytest.mark.parametrize("layers", [ALL, ()], ids=["all", "limits only"])
def test_a_judge_killed_from_outside_is_not_judged_where_the_program_cannot_have_done_it(layers):
    with Pool(workers=1, layers=need(*layers)) as pool:
        assert judged(pool, PROGRAM, "assert candidate(1) == 1").passed
        stop = threading.Event()

        def kill():
            # A keeper, its zygote (two processes with namespaces), then the program's and the judge's box.
            while not stop.wait(0.02):
                for worker in list(pool._all):
                    found = sorted(pid for pid, _ in processes(worker.base))
                    if len(found) >= (5 if layers else 4):
                        time.sleep(0.1)
                        os.kill(found[-1], signal.SIGKILL)

        thread = threading.Thread(target=kill)
        thread.start()
        outcome = judged(pool, PROGRAM, "candidate(1)\nimport time\ntime.sleep(3)")
        stop.set()
        thread.join()
    assert outcome.passed is False
    if layers:
        assert (outcome.ran, outcome.reason) == (False, "sandbox failed: the judge was killed from outside")
    else:
        assert (outcome.ran, outcome.reason) == (True, "the judge exited (SIGKILL)")
