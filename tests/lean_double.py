"""An executable that behaves as `lean` does for a handful of commands: messages, exit codes, printed axioms.

It knows sections, theorems, `type_of%` and `#print axioms`; types are compared as texts. Proofs are made of words:
`sorry`, `choice` and `native_decide` bring their axioms, `exact NAME` those of another theorem, `wrong` fails, and
others misbehave as a process can.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

STARTS = ("theorem", "lemma", "def", "section", "end", "open", "#print", "#exit", "import", "variable", "namespace")
BRINGS = {
    "sorry": ["sorryAx"], "choice": ["propext", "Classical.choice"], "native_decide": ["Lean.ofReduceBool"],
}  # fmt: skip
THEOREM = re.compile(r"(?:theorem|lemma)\s+([\w.]+)(.*?):=(.*)\Z", re.DOTALL)


def install(folder: Path, name: str = "lean") -> Path:
    """Write the executable into a folder and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!{sys.executable} -S\n{Path(__file__).read_text()}")
    path.chmod(0o755)
    return path


def commands(text):
    """Yield (line from 1, command) of a file."""
    start, held = 1, []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.startswith(STARTS) and held:
            yield start, "\n".join(held)
            held = []
        if not held:
            start = number
        held.append(line)
    yield start, "\n".join(held)


def main(arguments):
    """Read a file as Lean would."""
    if arguments == ["--version"]:
        print("Lean (version 4.99.0, stand-in, commit 0, Release)")
        return 0
    if arguments[:1] != ["--json"]:
        print("unknown option", file=sys.stderr)
        return 1
    sections, known, failed = [], {}, False

    def say(severity, line, text):
        nonlocal failed
        failed = failed or severity == "error"
        where = {"line": line, "column": 0}
        print(json.dumps({"severity": severity, "pos": where, "fileName": arguments[1], "data": text}), flush=True)

    for line, command in commands(Path(arguments[1]).read_text()):
        word, _, rest = command.strip().partition(" ")
        rest = rest.strip()
        if word == "import" and rest not in ("Init", "Mathlib"):
            say("error", line, f"unknown module prefix '{rest}'")
        elif word in ("section", "namespace"):
            sections.append(rest)
        elif word == "end":
            if (sections or [None]).pop() != rest:
                say("error", line, "invalid 'end', name mismatch")
        elif word == "#exit":
            break
        elif word == "#print":
            name = rest.removeprefix("axioms ")
            axioms = known[name][1] if name in known else []
            listed = ",\n ".join(axioms)
            told = f"depends on axioms: [{listed}]" if axioms else "does not depend on any axioms"
            say("information" if name in known else "error", line, f"'{name}' {told}")
        elif word in ("theorem", "lemma"):
            proved(THEOREM.match(command), line, known, say)
    return int(failed)


def proved(found, line, known, say):
    """Add a theorem, or say why not."""
    if found is None:
        say("error", line, "unexpected token; expected ':='")
        return
    name, type_, proof = found[1], " ".join(found[2].split()), found[3]
    if "unknownType" in type_:
        say("error", line, "unknown identifier 'unknownType'")
    axioms = [axiom for word, brought in BRINGS.items() if word in proof.split() for axiom in brought]
    for other in re.findall(r"(?:exact |@)([\w.]+)", proof):
        if other not in known:
            say("error", line, f"unknown identifier '{other}'")
            return
        axioms += known[other][1]
    meant = re.fullmatch(r": type_of% @([\w.]+)", type_)
    if meant is not None and known[meant[1]][0] != known[re.search(r"@([\w.]+)", proof)[1]][0]:
        say("error", line, "type mismatch")
        return
    misbehave(proof, line + found[0][: found.start(3)].count("\n"), say)
    known[name] = (known[meant[1]][0] if meant is not None else type_, sorted(set(axioms)))


def misbehave(proof, line, say):
    """Do what a proof's words ask for."""
    words = proof.split()
    if {"theorem", "lemma"} & set(words):
        say("error", line, "unexpected token 'theorem'; expected tactic")
    if "wrong" in words:
        say("error", line, "linarith failed to find a contradiction")
    if "trace" in words:
        say("information", line, proof.partition("trace")[2].strip())
    if "complains" in words:
        forged = {"severity": "error", "pos": {"line": 1, "column": 0}, "data": "of no statement"}
        print(json.dumps(forged), file=sys.stderr, flush=True)
    if "surroundings" in words:
        say("error", line, json.dumps([sorted(os.environ), os.listdir("."), sys.stdin.read()]))
    if "hang" in words:
        time.sleep(60)
    if "child" in words:
        subprocess.Popen(["/bin/sleep", words[words.index("child") + 1]])
        time.sleep(60)
    if "crash" in words:
        os.abort()
    if "large" in words:
        try:
            bytearray(3 << 30)
        except MemoryError:
            print("INTERNAL PANIC: out of memory", file=sys.stderr, flush=True)
            os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
