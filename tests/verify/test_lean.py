"""Proofs in Lean 4, against an executable that stands for `lean`: what is accepted, refused, and survived."""

from __future__ import annotations

import json
import os
import subprocess
import time

import pytest

import lean_double
from forkpoint.errors import InputError
from forkpoint.evaluate.benchmark import Benchmark, Layout, Verifying
from forkpoint.evaluate.judges import extraction, make_judge
from forkpoint.rollouts import Prompt, Verdict
from forkpoint.verify import lean, lean_run
from forkpoint.verify.lean import LeanSettings, lean_judge, verdict
from forkpoint.verify.lean_run import Message, Ran
from forkpoint.verify.lean_source import assemble, read_theorem  # fmt: skip

STATEMENT = "theorem easy (n : Nat) :\n    n + 0 = n := by sorry"
WHOLE = "theorem easy (n : Nat) : n + 0 = n := by\n  simp"


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    return str(lean_double.install(tmp_path_factory.mktemp("bin")))


def fenced(code, mark="lean4"):
    return f"First I think.\n```{mark}\n{code}\n```\nThat is all."


def judge(binary, *texts, statement=STATEMENT, meta=None, **settings):
    prompt = Prompt(id="p", text="prove it", answer=statement, meta=meta or {})
    return lean_judge(binary=binary, **{"deadline": 20.0, **settings})([prompt] * len(texts), texts)


@pytest.mark.parametrize(
    "code",
    [
        "simp",
        "  simp\n  choice",
        "by simp",
        "by\n  simp",
        ":= by simp",
        WHOLE,
        "import Mathlib\nopen Nat\n\n-- a notation for sorry\n" + WHOLE,
        "theorem help : True := trivial\n\n/- macro -/\n" + WHOLE.replace("simp", "exact help"),
        "lemma help : True := trivial\n" + WHOLE.replace("theorem", "@[simp] lemma").replace("@[simp] ", ""),
    ],
)
def test_proofs_that_are_accepted(binary, code):
    (found,) = judge(binary, fenced(code), header="import Mathlib\nopen Nat")
    assert (found.verdict, found.reward, found.detail) == (Verdict.RIGHT, 1.0, "proved")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("wrong", "lean: linarith failed"),
        ("exact nothing", "lean: unknown identifier"),
        ("theorem easy : True := trivial", "not the row's statement: type mismatch"),
        ("theorem easy (n : Nat) : n + 0 = n + 0 := by simp", "not the row's statement: type mismatch"),
        ("theorem other : True := trivial\n" + WHOLE.replace("easy", "easier"), "lean: unexpected token 'theorem'"),
        ("namespace Mine\n" + WHOLE, "lean: invalid 'end'"),
        (WHOLE + "\nend answer_0", "lean: invalid 'end'"),
        (WHOLE + "\nsection", "lean: invalid 'end'"),
        ("sorry", "refused: sorry"),
        ("import Lean\n" + WHOLE, "refused: import"),
        ("axiom magic : False\n" + WHOLE, "refused: axiom"),
        ("native_decide", "refused: native_decide"),
        (WHOLE + "\n#exit", "refused: #exit"),
        ("-- nothing", "no proof"),
    ],
)
def test_proofs_that_are_refused(binary, code, said):
    (found,) = judge(binary, fenced(code))
    assert (found.verdict, found.reward) == (Verdict.WRONG, 0.0)
    assert found.detail.startswith(said)


def test_what_a_term_prints_is_no_message(binary):
    assert judge(binary, fenced("simp complains"))[0].verdict is Verdict.RIGHT
    assert judge(binary, fenced("wrong complains"))[0].detail == "lean: linarith failed to find a contradiction"


def test_axioms_decide(binary):
    assert judge(binary, fenced("choice"))[0].verdict is Verdict.RIGHT
    (found,) = judge(binary, fenced("choice"), axioms=["propext"])
    assert (found.verdict, found.detail) == (Verdict.WRONG, "rests on Classical.choice")
    assert judge(binary, fenced("native_decide"), allow=["native_decide"])[0].verdict is Verdict.RIGHT
    # A word that slips through is caught by what the theorem rests on, and so is the statement's own open proof.
    (found,) = judge(binary, fenced("sorry"), allow=["sorry"])
    assert (found.verdict, found.detail) == (Verdict.WRONG, "rests on sorryAx")
    # The file ends before the check, and Lean has nothing against it.
    (found,) = judge(binary, fenced(WHOLE + "\n#exit"), allow=["#exit"])
    assert (found.verdict, found.detail) == (Verdict.WRONG, "the file ends before the theorem was checked")


def test_a_message_of_the_model_is_no_verdict():
    theorem = read_theorem(STATEMENT)
    source = assemble(theorem, "simp", "k1")
    honest = Message(
        severity="information", line=source.check_line + 1, text="'check_k1' does not depend on any axioms"
    )
    assert verdict(Ran(code=0, messages=(honest,)), source, LeanSettings())[0] is Verdict.RIGHT
    forged = (
        Message(severity="information", line=source.answer_line, text=honest.text),
        Message(severity="information", line=honest.line, text="'easy' does not depend on any axioms"),
        Message(severity="information", line=honest.line, text="'check_k2' does not depend on any axioms"),
    )
    for message in forged:
        assert verdict(Ran(code=0, messages=(message,)), source, LeanSettings())[0] is Verdict.WRONG
    assert verdict(Ran(code=0, messages=(honest, honest)), source, LeanSettings())[0] is Verdict.WRONG
    assert verdict(Ran(code=1, messages=(honest,)), source, LeanSettings())[0] is Verdict.UNJUDGED


def test_the_names_of_the_check_change_with_every_answer(binary, monkeypatch):
    seen = []
    real = lean_run.run_lean
    monkeypatch.setattr(
        lean, "run_lean", lambda which, text, deadline: seen.append(text) or real(which, text, deadline)
    )
    judge(binary, fenced("simp"), fenced("simp "), fenced("simp"))
    assert len(seen) == 2, "equal answers are checked once"
    first, second = (text.split("#print axioms ")[1] for text in seen)
    assert first != second
    assert len(first.strip()) == len("check_") + 16


def test_rows_that_cannot_be_judged(binary):
    (nothing,) = judge(binary, fenced("simp"), statement=None)
    (unnamed,) = judge(binary, fenced("simp"), statement="example : True := by sorry")
    (broken,) = judge(binary, fenced("simp"), statement="theorem t : unknownType := by sorry")
    (closed,) = judge(binary, "no block", statement="-- theorem t : True")
    (header,) = judge(binary, fenced("simp"), header="import Nowhere")
    assert {one.verdict for one in (nothing, unnamed, broken, closed, header)} == {Verdict.UNJUDGED}
    assert (nothing.detail, unnamed.detail) == ("no reference answer", "the statement names no theorem")
    assert broken.detail == "the statement does not compile: unknown identifier 'unknownType'"
    assert header.detail == "the statement does not compile: unknown module prefix 'Nowhere'"


def test_fields_of_a_row(binary):
    meta = {"extra_info": {"header": "import Mathlib\n"}, "formal": STATEMENT}
    (found,) = judge(binary, fenced("import Mathlib\n" + WHOLE), statement=None, meta=meta, statement_field="formal")
    assert found.verdict is Verdict.RIGHT
    (found,) = judge(binary, fenced("simp"), statement_field="informal")
    assert (found.verdict, found.detail) == (Verdict.UNJUDGED, "no field informal")
    # A row's header comes before the setting's.
    (found,) = judge(binary, fenced("simp"), meta={"header": "import Nowhere"}, header="import Mathlib")
    assert found.detail.endswith("'Nowhere'")


def test_a_proof_that_runs_past_a_limit(binary):
    start = time.monotonic()
    late, died = judge(binary, *map(fenced, ("hang", "crash")), deadline=1.5)
    assert time.monotonic() - start < 8
    assert {one.verdict for one in (late, died)} == {Verdict.WRONG}
    assert late.detail == "deadline"
    assert died.detail.startswith("lean crashed or ran out of memory")
    (late,) = judge(binary, fenced("hang"), deadline=0.5, over_limit="unjudged")
    assert (late.verdict, late.reward) == (Verdict.UNJUDGED, 0.0)
    (large,) = judge(binary, fenced("large"), memory=1.0)
    assert (large.verdict, large.detail[:12]) == (Verdict.WRONG, "lean crashed")
    (fits,) = judge(binary, fenced("large"), memory=8.0)
    assert fits.verdict is Verdict.RIGHT


def test_a_lean_that_prints_for_ever_is_ended_at_the_first_byte_too_many(tmp_path, monkeypatch):
    read = []
    message = lean_run._message
    monkeypatch.setattr(lean_run, "_message", lambda line: read.append(line) or message(line))
    path = tmp_path / "lean"
    path.write_text("#!/bin/sh\ncase $1 in --version) echo Lean version 4.0 ;; *) exec yes ;; esac\n")
    path.chmod(0o755)
    (found,) = judge(str(path), fenced("simp"), deadline=60.0)
    assert (found.verdict, found.detail[:12]) == (Verdict.WRONG, "lean crashed")
    assert len(read) == lean_run.MAX_LINES, "of four million lines"


def test_the_whole_group_is_killed(binary):
    seconds = f"86400.{time.time_ns()}"
    judge(binary, fenced(f"child {seconds}"), deadline=1.0)

    def alive():
        return seconds in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout

    # It is killed and may still be listed for a moment; left alone it would sleep for a day.
    until = time.monotonic() + 10
    while alive():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_surroundings(binary, monkeypatch, tmp_path):
    monkeypatch.setenv("SECRET", "x")
    theorem = read_theorem(STATEMENT)
    found = lean_run.find_lean(binary, libraries="/lib/mathlib")
    piped = tmp_path / "piped"
    piped.write_text("what is typed is for the user's own command")
    own = os.dup(0)
    with piped.open() as file:
        os.dup2(file.fileno(), 0)
    try:
        ran = lean_run.run_lean(found, assemble(theorem, "surroundings", "k").text, 20.0)
    finally:
        os.dup2(own, 0)
        os.close(own)
    environment, files, piped = json.loads(ran.messages[0].text)
    assert {"HOME", "LEAN_NUM_THREADS", "LEAN_PATH", "PATH", "TMPDIR"} <= set(environment)
    assert set(environment) <= {"HOME", "LANG", "LC_CTYPE", "LEAN_NUM_THREADS", "LEAN_PATH", "PATH", "TMPDIR"}
    assert (files, piped) == (["Answer.lean"], "")


def test_without_a_lean(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        InputError, match=r"no executable 'lean' on PATH: install Lean 4, or name the file with .* binary"
    ):
        lean_judge()
    fake = tmp_path / "fake"
    for body, said in (
        ("echo Lean 3.51", "it printed 'Lean 3.51'"),
        ("echo toolchain missing >&2; exit 1", "toolchain"),
        ("echo Lean version 4.1; exit 1", "version 4.1"),
    ):
        fake.write_text(f"#!/bin/sh\n{body}\n")
        fake.chmod(0o755)
        with pytest.raises(InputError, match=f"is no Lean 4 that starts here .*{said}"):
            lean_judge(binary=str(fake))


def test_a_lean_that_stops_working_is_no_fault_of_the_answer(tmp_path):
    path = lean_double.install(tmp_path)
    prompt = Prompt(id="p", text="", answer=STATEMENT)
    asked = lean_judge(binary=str(path))
    path.write_text("#!/bin/sh\necho broken library >&2\nexit 2\n")
    (found,) = asked([prompt], [fenced("simp")])
    assert (found.verdict, found.detail) == (Verdict.UNJUDGED, "lean ended with 2: broken library")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"block": "boxed"}, "block = 'boxed' is none of fenced, whole"),
        ({"over_limit": "right"}, "over_limit = 'right' is none of"),
        ({"allow": "macro"}, "are lists of words"),
        ({"allow": ["macros"]}, "'macros', which is not forbidden: did you mean 'macro'"),
        ({"deadline": 0}, "deadline > 0"),
        ({"memory": 0}, "memory = 0"),
    ],
)
def test_settings_are_checked(binary, settings, said):
    with pytest.raises(InputError, match=said):
        lean_judge(**{"binary": binary, **settings})


def test_a_benchmark_can_name_it(binary):
    benchmark = Benchmark(
        name="proofs", title="Proofs", licence="own", layout=(Layout(question="q", answer="formal"),),
        verifier=Verifying.model_validate({"name": "lean", "binary": binary, "allow": ["native_decide"]}),
    )  # fmt: skip
    asked = make_judge(benchmark)
    (found,) = asked([Prompt(id="", text="", answer=STATEMENT)], [fenced("native_decide")])
    assert found.verdict is Verdict.RIGHT
    assert extraction(benchmark) is None
