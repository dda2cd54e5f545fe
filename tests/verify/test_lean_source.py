"""The file that Lean checks: statements, code blocks, comments, words that are refused."""

from __future__ import annotations

import pytest

from forkpoint.rollouts import Verdict
from forkpoint.verify.lean import LeanSettings, source_of
from forkpoint.verify.lean_source import (
    FORBIDDEN,
    Source,
    assemble,
    code_block,
    own_lines,
    read_theorem,
    refusal,
    without_comments,
)

STATEMENT = "theorem easy (n : Nat) :\n    n + 0 = n := by sorry"
WHOLE = "theorem easy (n : Nat) : n + 0 = n := by\n  simp"


def fenced(code, mark="lean4"):
    return f"First I think.\n```{mark}\n{code}\n```\nThat is all."


def test_the_file_that_is_checked():
    theorem = read_theorem(
        "def two := 2\n\n/-- Doc. -/\ntheorem A.b.{u} {α : Type u} (x : α) : x = x :=", "import Init"
    )
    source = assemble(theorem, "theorem A.b.{u} {α : Type u} (x : α) : x = x := rfl", "K")
    assert source.text.split("\n") == [
        "import Init", "def two := 2", "", " ",
        "theorem goal_K.{u} {α : Type u} (x : α) : x = x := sorry",
        "section answer_K",
        "theorem A.b.{u} {α : Type u} (x : α) : x = x := rfl",
        "end answer_K",
        "theorem check_K : type_of% @goal_K := @A.b",
        "#print axioms check_K",
        "",
    ]  # fmt: skip
    assert (source.answer_line, source.check_line) == (7, 9)
    # A theorem of another name is no declaration of this one, so the code counts as a proof.
    for other in ("A.b2", "A.b'", "A.b.c", "AA.b"):
        assert f"by\n  theorem {other} :" in assemble(theorem, f"theorem {other} : True := trivial", "K").text
    assert (
        "theorem A.b.{u} {α : Type u} (x : α) : x = x := by\n  simp\n    at h\n"
        in assemble(theorem, "\n  simp\n    at h", "K").text
    )


@pytest.mark.parametrize(
    ("statement", "name", "signature"),
    [
        (STATEMENT, "easy", " (n : Nat) :\n    n + 0 = n"),
        ("lemma x' : True := by", "x'", " : True"),
        ("theorem «a b».c (h : 1 = 1 := rfl) : True", "«a b».c", " (h : 1 = 1 := rfl) : True"),
        ("theorem a : True := by simp\n@[simp] theorem b₁: True := sorry\n\nend Foo\n", "b₁", ": True"),
        ("namespace N\nprivate theorem c {x : ℕ} : x = x := by\n  sorry -- todo", "c", " {x : ℕ} : x = x"),
    ],
)
def test_statements_are_read(statement, name, signature):
    found = read_theorem(statement)
    assert (found.name, found.signature) == (name, signature)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (fenced("a") + fenced("b", "") + fenced("c", "python"), "a"),
        (fenced("a") + "\n" + fenced("b", "lean"), "b"),
        (fenced("a", "") + "\n" + fenced("b", ""), "b"),
        ("```lean\nold\n```lean\nnew\n```", "new"),
        ("```lean4\nopen and cut", None),
        ("simp", None),
        (fenced("c", "python"), None),
        (fenced("  \n"), None),
        ("", None),
    ],
)
def test_where_the_code_stands(text, code):
    assert code_block(text) == code


def test_an_answer_that_continues_an_open_block():
    assert code_block("  simp\n```\nDone.", "whole") == "  simp"
    assert code_block("  simp", "whole") == "  simp"
    assert code_block("```", "whole") is None


@pytest.mark.parametrize(
    ("code", "word"),
    [
        *((f"x {word} y", word) for word in FORBIDDEN if word != "set_option"),
        ("λmacro", "macro"), ("(macro)", "macro"), ("Foo.macro", "macro"), ("1macro", "macro"), ("0xAmacro", "macro"),
        ("builtin_initialize", "builtin_initialize"), ("run_tac x", "run_tac"), ("declare_x y", "declare_x"),
        ("#eval x", "#eval"), ("x;#print y", "#print"), ("set_option autoImplicit true", "set_option autoImplicit"),
        ("set_option\n debug.skipKernelTC true", "set_option debug.skipKernelTC"), ("set_option «x»", "set_option"),
        ("@[implemented] def x", "attribute implemented"), ("@[simp, init] def x", "attribute init"),
        ("attribute [local tactic] x", "attribute tactic"), ("attribute[-foo] x", "attribute foo"),
        ("simp (config := match unsafeIO x with | .ok _ => {} | _ => {})", "unsafeIO"), ("IO.println", "IO"),
        ('exact dbg_trace "x"; h', "dbg_trace"), ('(println! "x") ()', "println"), ("exact eval% f", "eval%"),
        ("simp (config := f x)", "config"), ("simp (config := cfg)", "config"), ("simp («config» := f)", "config"),
        ("simp (config := { maxSteps := f x })", "config"), ("aesop (simp_config := { zeta := (f) })", "config"),
        ("simp (config := {\n zeta := g.{1} })", "config"), ("simp (config := { c with zeta := true })", "config"),
        ("@[simp [x], bad] def y", "attribute simp"), ("@[] x", "attribute "), ('"sorry"', "sorry"),
    ],
)  # fmt: skip
def test_words_that_are_refused(code, word):
    assert refusal(code) == word


def test_words_that_are_not_refused():
    code = """
    set_option maxHeartbeats 400000 in
    @[simp, local ext] theorem important (macros : Nat) : #s = Finset.card s := by
      simp [elaborate, notations, sorry_free]; exact h1; refine ⟨_, 0x1F, 1e5⟩
      norm_num (config := { decide := true, maxSteps := 10, }); simp (config:={})
      rw [Polynomial.eval, lcm_comm, config]
      simp (config := { transparency := .default, arith := true }) [Nat.System_of, f.eval %  2, configuration := h]
    attribute [-simp] important
    @[elab_as_elim] theorem x : True := trivial
    """
    assert refusal(code) is None
    assert refusal("macro", allow=["macro"]) is None
    assert refusal("set_option x y", allow=["set_option"]) is None
    assert refusal("#eval 1 #print x", allow=["#eval"]) == "#print"


@pytest.mark.parametrize(
    ("code", "bare"),
    [
        ("a -- b\nc", "a  \nc"),
        ("a /- b /- c -/ d -/ e", "a   e"),
        ("a /- open", "a  "),
        ("a /-- doc -/ b", "a   b"),
        ("- /- x -/ - b", "-   - b"),
        ("a -/ b", "a -/ b"),
        ("/- -- -/ sorry", "  sorry"),
        ("-- /-\nsorry", " \nsorry"),
    ],
)
def test_comments_are_taken_out(code, bare):
    assert without_comments(code) == bare


def test_repeated_context_is_taken_out_at_the_beginning_alone():
    context = "import A\nopen B\ndef x :=\n  simp"
    assert own_lines("import A\n\n  open B\nfoo\n  simp", context) == "foo\n  simp"
    assert own_lines("foo", "") == "foo"
    theorem = read_theorem(STATEMENT)
    found = source_of(theorem, fenced("import Lean.Elab\n" + WHOLE), LeanSettings(allow=("import",)), "k")
    assert isinstance(found, Source)
    assert found.text.startswith("import Lean.Elab\ntheorem goal_k")
    assert source_of(theorem, fenced("x" * 100_001), LeanSettings(), "k") == (Verdict.WRONG, "code over the cap")
