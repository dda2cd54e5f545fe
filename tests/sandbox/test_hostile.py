"""Hostile programs: none escapes, hangs the pool, survives, disturbs its neighbours or is judged right."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import hostile
import pytest

from forkpoint.sandbox import Limits, Outcome, Pool, Trial, protections

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing would stop these programs")
LIMITS = Limits(cpu_s=0.25, wall_s=0.8, memory_bytes=192 << 20)
HONEST = Trial(program=hostile.HONEST, judge=hostile.JUDGE, entry=hostile.ENTRY)
ALWAYS = {
    "rlimit", "deadline", "two processes", "output cap", "bounded frames", "clean environment",
    "links are not followed",
}  # fmt: skip
"""Protections that need nothing of the kernel but processes."""


def ways(program):
    """Return the sets of protections each of which stops a program."""
    return [set(way.split(" and ")) for way in program.relies_on.split(" or ")]


SUITE = {program.name: program for program in hostile.programs()}
WITHOUT = ("landlock", "seccomp", "user")
BARE = [
    name
    for name, one in SUITE.items()
    if any("namespaces" in way for way in ways(one)) and {"deadline"} not in ways(one)
]
"""What namespaces stop, and not the clock alone after them."""
LIMITED = {
    "loop": "cpu", "loop_in_call": "cpu", "fork_bomb_quiet": "cpu", "sleep": "wall", "sleep_in_call": "wall",
    "print_for_ever": "output", "error_for_ever": "output", "print_in_call": "output", "big_number": "memory",
}  # fmt: skip
"""Where it is certain which limit is reached; a busy machine may reach the one on the clock first."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What became of the suite."""

    outcomes: dict[str, Outcome]
    harm: list[str]
    left: set[int]
    after: Outcome
    neighbours: list[Outcome]


def stopped(program, layers) -> bool:
    """Return whether one of the protections it runs into is there."""
    there = ALWAYS | set(layers)
    return any(way <= there for way in ways(program))


def watched(folder, names, layers=None) -> Seen:
    """Run programs among honest ones, two at a time, and look at the canaries."""
    active = protections(layers).layers
    names = [name for name in names if stopped(SUITE[name], active)]
    hostile.adopt_orphans()
    with hostile.canaries(folder) as canaries:
        before = hostile.children()
        trials = []
        for name in names:
            trials.append(Trial(program=canaries.filled(SUITE[name].source), judge=hostile.JUDGE, entry=hostile.ENTRY))
        with Pool(2, LIMITS, layers=layers) as pool:
            outcomes = dict(zip(names, pool.map(trials), strict=True))
            harm = canaries.harmed()
            after = next(outcome for _ in range(5) if (outcome := pool.run(HONEST)).limit is None)
            mixed = [Trial(program=SUITE[name].source, judge=hostile.JUDGE, entry=hostile.ENTRY) for name in NEIGHBOURS]
            found = list(pool.map([trial for one in mixed for trial in (HONEST, one)]))
        left = hostile.left_behind(before)
        return Seen(outcomes=outcomes, harm=harm, left=left, after=after, neighbours=found[::2])


NEIGHBOURS = ("kill_siblings", "kill_group", "memory", "descriptors", "exit_zero", "crash", "fill_disk", "daemon")


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    return watched(tmp_path_factory.mktemp("outside"), SUITE)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Return what namespaces stop, without them; the ladder has the rest, and what takes the whole deadline."""
    return watched(tmp_path_factory.mktemp("bare"), BARE, WITHOUT)


def check(program, outcome):
    if outcome is None:
        pytest.skip(f"nothing here stops it: it takes {program.relies_on}")
    assert outcome.ran, outcome.reason
    assert not outcome.passed
    assert outcome.reason
    assert hostile.SECRET not in outcome.stdout + outcome.stderr + outcome.reason
    assert hostile.REACHED not in outcome.stdout


def check_all(seen):
    assert seen.harm == []
    assert seen.left == set()
    assert seen.after.passed, seen.after
    assert all(outcome.passed for outcome in seen.neighbours if outcome.limit is None)
    assert sum(outcome.passed for outcome in seen.neighbours) > len(NEIGHBOURS) // 2


def test_what_is_in_the_suite():
    assert len(SUITE) == len(hostile.programs()) >= 60
    ways = {
        part for program in SUITE.values() for way in program.relies_on.split(" or ") for part in way.split(" and ")
    }
    assert ways <= ALWAYS | {"namespaces", "landlock", "seccomp", "user"}


def test_an_honest_program_passes_the_test_that_they_fail():
    with Pool(1) as pool:
        assert pool.run(HONEST).passed


@pytest.mark.parametrize("name", SUITE)
def test_none_is_judged_right_or_tells(seen, name):
    check(SUITE[name], seen.outcomes.get(name))


@pytest.mark.parametrize("name", LIMITED)
def test_the_limit_is_named(seen, name):
    assert seen.outcomes[name].limit in (LIMITED[name], "wall")


def test_nothing_outside_is_harmed(seen):
    check_all(seen)


def test_nothing_hangs(seen):
    slow = sum(outcome.limit in ("cpu", "wall") for outcome in seen.outcomes.values())
    assert slow >= 10, "programs that run for ever were not ended by a limit"
    # Far above what a busy machine takes, far below what one hung keeper costs for each.
    assert all(outcome.wall_s < LIMITS.wall_s + 5.0 for outcome in seen.outcomes.values())


@pytest.mark.parametrize("name", BARE)
def test_none_is_judged_right_without_namespaces(bare, name):
    check(SUITE[name], bare.outcomes.get(name))


def test_nothing_outside_is_harmed_without_namespaces(bare):
    check_all(bare)


@pytest.mark.slow
# The kernel does not count the processes of root, so namespaces bound a fork bomb only where boxes have another user.
@pytest.mark.parametrize("layers", [WITHOUT, ("namespaces", "user"), ("landlock",), ("seccomp",)], ids="+".join)
def test_what_is_said_to_stop_a_program_does_so_alone(tmp_path, layers):
    found = watched(tmp_path, SUITE, layers)
    check_all(found)
    assert len(found.outcomes) > 60, "a layer is missing here"
    for name, outcome in found.outcomes.items():
        check(SUITE[name], outcome)


@pytest.mark.parametrize(
    "harm",
    [
        lambda canaries: (canaries.folder / "keep.txt").write_text("taken"),
        lambda canaries: (canaries.folder / "made").mkdir(),
        lambda canaries: (canaries.folder / "keep.txt").chmod(0o600),
        lambda canaries: canaries.process.kill() or canaries.process.wait(),
        lambda canaries: hostile.reach(canaries),
    ],
)
def test_canaries_sing(tmp_path, harm):
    with hostile.canaries(tmp_path) as canaries:
        assert canaries.harmed() == []
        harm(canaries)
        assert canaries.harmed()
