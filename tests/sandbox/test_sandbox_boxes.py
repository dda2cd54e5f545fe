import os
import socket
import sys
import threading
from pathlib import Path

import pytest
from sandbox_kit import ALL, NO_NAMESPACES, need, processes

from forkpoint.sandbox import Limits, Pool, Trial, protections

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the layers are Linux's")
LIMITS = Limits(cpu_s=0.5, wall_s=6.0, memory_bytes=128 << 20, file_bytes=10_000, output_bytes=1000)


@pytest.fixture(scope="module", params=[ALL, ()], ids=["all", "limits only"])
def bare(request):
    """A pool with all layers or with none."""
    with Pool(workers=1, limits=LIMITS, layers=need(*request.param)) as pool:
        yield pool


@pytest.fixture(
    scope="module", params=[ALL, NO_NAMESPACES, ("namespaces",)], ids=["all", "no namespaces", "namespaces"]
)
def closed(request):
    """A pool whose layers keep a program in."""
    with Pool(workers=1, limits=LIMITS, layers=need(*request.param)) as pool:
        yield pool


def script(pool: Pool, program: str):
    return pool.run(Trial(program=program))


@pytest.mark.parametrize(
    ("program", "limit"),
    [
        ("while True: pass", "cpu"),
        ("x = bytearray(200 << 20)", "memory"),
        ("x = []\nwhile True: x += [None] * 10**8", "memory"),
        ("print('x' * 1001)", "output"),
        ("import sys; sys.stderr.write('x' * 1001)", "output"),
        ("import os\nwhile True: os.write(1, b'x' * 4096)", "output"),
    ],
)
def test_each_limit_ends_a_program(bare, program, limit):
    outcome = script(bare, program)
    assert (outcome.passed, outcome.ran) == (False, True)
    assert (outcome.limit, outcome.reason) == (limit, f"{limit} limit"), outcome
    assert len(outcome.stdout) <= 1000
    assert len(outcome.stderr) <= 1000


@pytest.mark.parametrize("layers", [ALL, ()], ids=["all", "limits only"])
def test_the_clock_ends_a_program_that_sleeps_whatever_it_ignores(layers):
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    with Pool(workers=1, limits=Limits(wall_s=0.6), layers=need(*layers)) as pool:
        outcome = script(pool, program)
    assert (outcome.passed, outcome.ran, outcome.limit, outcome.reason) == (False, True, "wall", "wall limit")
    assert 0.6 <= outcome.wall_s < 5


def test_processor_time_is_counted_over_all_threads_to_a_tenth_of_a_second():
    program = "import threading\nfor _ in range(4): threading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()"
    with Pool(workers=1, limits=Limits(cpu_s=0.3, wall_s=30)) as pool:
        outcome = script(pool, program)
    assert outcome.limit == "cpu"
    assert 0.3 <= outcome.cpu_s < 0.5


def test_a_judge_that_never_ends_is_ended(bare):
    outcome = bare.run(Trial(program="def f(x): return x", judge="while True: pass", entry="f"))
    assert (outcome.passed, outcome.limit) == (False, "cpu")


def test_within_the_limits_a_program_does_what_it_likes(closed):
    program = """
import os, threading, asyncio, tempfile
with open("a", "wb") as file: file.write(b"x" * 9999)
os.mkdir("d"); os.symlink("a", "d/link"); os.rename("a", "b")
with tempfile.TemporaryFile() as file: file.write(b"x")
found = []
threads = [threading.Thread(target=found.append, args=(i,)) for i in range(6)]
[t.start() for t in threads]; [t.join() for t in threads]
async def wait(): await asyncio.sleep(0.001); return len(found)
assert asyncio.run(wait()) == 6
import hashlib, decimal, datetime
os.kill(os.getpid(), 0)
open("/dev/null", "w").write("x"); assert len(os.urandom(4)) == 4
def f(n): return 0 if n == 0 else 1 + f(n - 1)
assert f(990) == 990
print(sorted(os.listdir(".")))
"""
    outcome = script(closed, program)
    assert (outcome.stdout, outcome.reason) == ("['b', 'd']\n", "passed")
    # The next one finds an empty folder again.
    assert script(closed, "import os; print(os.listdir('.'))").stdout == "[]\n"


def test_a_large_file_is_refused(bare):
    outcome = script(bare, "with open('a', 'wb') as file: file.write(b'x' * 10001)")
    assert "OSError: [Errno 27] File too large" in outcome.reason


def test_the_environment_is_scrubbed(bare, monkeypatch):
    monkeypatch.setenv("FORKPOINT_SECRET", "tok" + "en123")
    program = "import os; print(sorted(os.environ), os.getenv('FORKPOINT_SECRET')); print(os.listdir('/proc/self/fd'))"
    outcome = script(bare, program.partition("; print(os.l")[0])
    assert outcome.stdout == "['HOME', 'LANG', 'TMPDIR', 'TZ'] None\n"
    inside = script(bare, "print(b'token123' in open('/proc/self/environ', 'rb').read())")
    assert inside.stdout in ("False\n", "")  # or not even readable


def test_only_three_descriptors_are_open(bare):
    program = """
import os
def is_open(number):
    try: os.fstat(number)
    except OSError: return False
    return True
def f(): return [number for number in range(1024) if is_open(number)]
"""
    assert script(bare, program + "print(f())").stdout == "[0, 1, 2]\n"
    judge = "assert candidate() == [0, 1, 2, 3, 4], candidate()"
    # Pipes: a socket would be one of this machine's network.
    program += "import stat\ndef g(): return [stat.S_ISFIFO(os.fstat(number).st_mode) for number in (3, 4)]\n"
    judge += "\nassert remote('g')() == [True, True]"
    assert bare.run(Trial(program=program, judge=judge, entry="f")).reason == "passed"


SCAN = """
own = "".join(["own-", "mar", "ker"])
def f(words):
    # A word is two halves side by side; put together they are in memory only where somebody else put them.
    found, read = set(), 0
    memory = open("/proc/self/mem", "rb", 0)
    for line in open("/proc/self/maps"):
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if "r" not in line.split()[1] or "[v" in line: continue
        try:
            memory.seek(start); data = memory.read(end - start)
        except (OSError, ValueError, OverflowError):
            continue
        read += len(data)
        for first, second in words:
            at = data.find(first.encode())
            while at >= 0:
                after = at + len(first)
                if data[after : after + len(second)] == second.encode(): found.add(first)
                at = data.find(first.encode(), at + 1)
    return found, read
"""


@pytest.mark.skipif(os.getuid() != 0, reason="a box of another user cannot read its memory as a file at all")
def test_neither_the_judge_nor_former_programs_are_in_a_programs_memory():
    # Without layers, for only so can a program read its own memory as a file at all.
    with Pool(workers=1, layers=()) as pool:
        former = Trial(
            program="x = 'former-program-4711'\ndef f(): return x",
            judge="assert candidate() != 'former-judge-1'",
            entry="f",
        )
        assert pool.run(former).ran
        judge = """
SECRET = "judge-secret-0815"
own, judge, program = ["own-", "marker"], ["judge-secret-", "0815"], ["former-program-", "4711"]
found, read = candidate([own, judge, program, ["former-judge-", "1"]])
assert read > 1 << 20, read
assert found == {"own-"}, found
"""
        outcome = pool.run(Trial(program=SCAN, judge=judge, entry="f"))
    assert outcome.reason == "passed"


def test_the_memory_of_keeper_and_zygote_is_closed_even_without_layers():
    program = """
import os
opened, seen = [], 0
for entry in os.listdir("/proc"):
    if entry.isdigit() and int(entry) != os.getpid():
        try:
            if BASE.encode() not in open(f"/proc/{entry}/cmdline", "rb").read(): continue
            seen += 1
            open(f"/proc/{entry}/mem", "rb").close()
        except OSError: continue
        opened.append(entry)
print(seen, opened)
"""
    with Pool(workers=1, layers=()) as pool:
        assert script(pool, "print(1)").passed
        base = pool._all[0].base
        assert script(pool, f"BASE = {base!r}\n{program}").stdout == "2 []\n"


ATTACKS = {
    "write": "open({base!r} + '/../escape', 'w')",
    "write temporary": "open({base!r} + '/escape', 'w')",
    "write above": "open('../../escape', 'w')",
    "symlink": "import os\nos.symlink({base!r} + '/there', 'l')\nopen('l', 'a').write('x')",
    "read": "open({secret!r}).read()",
    "read through a link": "import os\nos.symlink({secret!r}, 'l')\nopen('l').read()",
    "list": "import os\nos.listdir(os.path.dirname({secret!r}))",
    "own package": "open({package!r}).read()",
    "passwd": "open('/etc/passwd').read()",
    "processes": "open('/proc/1/cmdline').read()",
    "parent": "open('/proc/%d/mem' % __import__('os').getppid(), 'rb')",
    "connect": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)",
    "connect raw": "import ctypes\nn = ctypes.CDLL(None).socket(2, 1, 0)\nassert n < 0, n\nraise OSError",
    "unix": "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect({unix!r})",
    "remove": "import os\nos.unlink({secret!r})",
    "rename": "import os\nos.rename({secret!r}, 'mine')",
    "link": "import os\nos.link({secret!r}, 'mine')",
    "change mode": "import os\nos.chmod({secret!r}, 0)",
    "chroot": "import os\nos.chroot('.')",
    "mount": "import ctypes\nassert ctypes.CDLL(None).mount(b'none', b'.', b'tmpfs', 0, None) == 0\n",
    "signal": "import os\nos.kill({pid}, 9)",
    "device": "import os, stat\nos.mknod('d', stat.S_IFBLK | 0o600, os.makedev(8, 0))",
}


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A secret file, a TCP and a unix socket of this process, to be got at."""
    base = tmp_path_factory.mktemp("outside")
    for parent in (base, *base.parents[:2]):
        os.chmod(parent, 0o777)
    secret = base / "secret"
    secret.write_text("answer 42")
    os.chmod(secret, 0o666)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(base / "sock"))
        os.chmod(base / "sock", 0o777)
        unix.listen()
        yield {
            "base": str(base),
            "secret": str(secret),
            "port": server.getsockname()[1],
            "unix": str(base / "sock"),
            "package": __file__,
            "pid": os.getpid(),
        }


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_outside_is_reached(closed, outside, attack):
    outcome = script(closed, ATTACKS[attack].format(**outside) + "\nprint('reached')")
    assert (outcome.passed, outcome.ran) == (False, True), outcome
    assert "reached" not in outcome.stdout
    refused = ("PermissionError", "FileNotFoundError", "OSError", "NotADirectoryError", "ConnectionRefusedError")
    assert any(word in outcome.reason for word in (*refused, "ProcessLookupError", "AssertionError")), outcome
    assert os.listdir(outside["base"]) in (["secret", "sock"], ["sock", "secret"])
    assert Path(outside["secret"]).read_text() == "answer 42"
    assert not os.path.exists(outside["base"] + "/../escape")


@pytest.mark.parametrize("attack", ["read", "write temporary", "connect", "unix", "own package"])
def test_the_attacks_succeed_where_nothing_protects(outside, attack):
    if os.getuid() != 0 and attack == "own package":
        pytest.skip("needs a readable tree")
    with Pool(workers=1, layers=()) as pool:
        outcome = script(pool, ATTACKS[attack].format(**outside) + "\nprint('reached')")
    if attack == "write temporary":
        os.unlink(outside["base"] + "/escape")
    assert outcome.stdout == "reached\n"


def test_installed_packages_are_hidden_inside_the_visible_library(closed):
    library = Path(os.__file__).parent
    installed = next((path for path in (library / "site-packages").rglob("*") if path.is_file()), None)
    if installed is None:
        pytest.skip("the interpreter has no packages inside its library")
    outcome = script(closed, f"open({str(library / 'os.py')!r}).close()\nprint('library')\nopen({str(installed)!r})")
    assert outcome.stdout == "library\n"
    assert "No such file" in outcome.reason or "Permission denied" in outcome.reason, outcome


def test_children_are_refused_where_one_process_is_the_limit(closed):
    for program in ("import os\nif os.fork(): os.wait()", "import subprocess; subprocess.run(['/bin/true'])"):
        outcome = script(closed, program + "\nprint('reached')")
        if closed._layers == ("namespaces",) and "fork" in program:
            continue  # counted together with threads there, and bounded, see below
        assert not outcome.passed
        assert "reached" not in outcome.stdout


FORKS = """
import os, sys, time
made = 0
try:
    while made < 500:
        if os.fork() == 0:
            try:
                os.setsid()
            finally:
                time.sleep(60)
        made += 1
except OSError:
    pass
print(made)
"""


@pytest.mark.parametrize("layers", [ALL, ("namespaces",), NO_NAMESPACES, ()])
def test_whatever_a_program_starts_ends_with_it(layers):
    with Pool(workers=1, limits=Limits(processes=4, wall_s=5), layers=need(*layers)) as pool:
        assert script(pool, "print(1)").passed
        base = pool._all[0].base
        before = {pid for pid, _ in processes(base)}
        outcome = script(pool, FORKS.replace("500", "20"))
        assert int(outcome.stdout) > 0
        assert {pid for pid, _ in processes(base)} == before
        # And one that leaves its children at once.
        assert script(pool, "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)").passed
        assert {pid for pid, _ in processes(base)} == before


def test_namespaces_bound_the_number_of_processes():
    with Pool(workers=1, limits=Limits(processes=4, wall_s=5), layers=need(*ALL)) as pool:
        assert 3 <= int(script(pool, FORKS).stdout) <= 6
    with Pool(workers=1, limits=Limits(wall_s=5), layers=need("namespaces", "user")) as pool:
        assert 60 <= int(script(pool, FORKS).stdout) <= 70


def test_the_folder_as_a_whole_is_limited_by_namespaces():
    with Pool(workers=1, limits=LIMITS, layers=need(*ALL)) as pool:
        outcome = script(pool, "for i in range(99):\n    with open(str(i), 'wb') as f: f.write(b'x' * 9000)")
        assert "No space left on device" in outcome.reason
        outcome = script(pool, "import os\nfor i in range(5000): os.mkdir(str(i))")
        assert "No space left on device" in outcome.reason


def test_folders_deeper_than_a_path_is_long_are_removed(bare):
    program = """
import os
for _ in range(60):
    os.mkdir("d" * 200); os.chdir("d" * 200)
os.mkdir("closed", 0)
"""
    assert script(bare, program).passed
    assert script(bare, "import os; print(os.listdir('.'))").stdout == "[]\n"


@pytest.fixture(scope="module")
def filtered():
    """A pool with the filter of system calls alone."""
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers are those of x86_64")
    with Pool(workers=1, layers=need("seccomp")) as pool:
        yield pool


@pytest.mark.parametrize(
    "call",
    [
        "ptrace(0, 0, 0, 0)",
        "unshare(0x10000000)",
        "setns(0, 0)",
        "syscall(272, 0x10000000)",
        "prctl(4, 1, 0, 0, 0)",
        "syscall(321, 0, 0, 0)",
        "syscall(425, 8, 0)",
        "syscall(250, 0, 0)",
        "syscall(323, 0)",
        "syscall(435, 0, 0)",
        "syscall(1073741825, 1, b'x', 1)",
        "syscall(56, 17, 0, 0, 0, 0)",
        "syscall(56, 0x10000011, 0, 0, 0, 0)",
        "fcntl(1, 8, 1)",
        "memfd_create(b'x', 0)",
        "shmget(0, 4096, 0o1600)",
        "tgkill(1, 1, 0) if __import__('os').getpid() != 1 else -1",
        f"prlimit({os.getpid()}, 0, None, None)",
        "socketpair(2, 1, 0, None)",
        "execve(b'/bin/true', None, None)",
    ],
)
def test_the_filter_refuses_what_no_program_needs(filtered, call):
    program = f"import ctypes\nC = ctypes.CDLL(None, use_errno=True)\nr = C.{call}\nprint(r, ctypes.get_errno())"
    outcome = script(filtered, program)
    assert outcome.stdout.split()[0] == "-1", outcome
    assert outcome.stdout.split()[1] in ("1", "38") or call.startswith("tgkill")


def test_protections_are_found_by_trying(monkeypatch):
    full = protections(need(*ALL))
    assert set(full.active) == {"network", "write", "read", "processes", "signals", "cleanup", "memory"}
    assert "NOT ACTIVE" not in full.statement()
    none = protections(())
    assert {"network", "write", "read", "signals"} & set(none.active) == set()
    assert "NOT ACTIVE: no connection" in none.statement()
    assert "without namespaces (users, files, processes, network, IPC): switched off" in none.statement()
    assert "only where the machine itself may be lost" in none.statement()
    contained = protections(need(*NO_NAMESPACES))
    assert {"network", "write", "read", "processes", "signals"} <= set(contained.active)
    assert "by Landlock" in contained.statement()


def test_required_protections_that_hold_are_accepted():
    need(*ALL)
    with Pool(workers=1, require=("network", "files", "processes", "signals", "cleanup", "memory")) as pool:
        assert script(pool, "print(1)").passed


def test_a_program_cannot_answer_for_the_judge(bare):
    program = """
import os, sys, builtins, threading
builtins.AssertionError = Exception
class Always:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
class Number(int):
    __eq__ = Always.__eq__; __ne__ = Always.__ne__; __hash__ = int.__hash__
def f(x): return Number(5)
for number in range(1024):
    try: os.write(number, b'{"passed": true, "reason": "passed"}' if number > 2 else b'')
    except OSError: pass
"""
    outcome = bare.run(Trial(program=program, judge="assert candidate(1) == 2", entry="f"))
    assert (outcome.passed, outcome.ran) == (False, True)
    outcome = bare.run(Trial(program=program.rpartition("for number")[0], judge="assert candidate(1) == 2", entry="f"))
    assert outcome.reason == "assertion failed: assert candidate(1) == 2"


def test_trials_of_two_workers_do_not_meet(closed):
    program = """
import os, time
open("mine", "w").write("x")
time.sleep(0.2)
print(sorted(os.listdir(".")))
"""
    found = []
    with Pool(workers=2, limits=LIMITS, layers=closed._layers) as pool:
        threads = [threading.Thread(target=lambda: found.append(script(pool, program).stdout)) for _ in range(2)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert found == ["['mine']\n"] * 2
