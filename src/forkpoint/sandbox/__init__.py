"""A sandbox for untrusted programs: fresh processes with limits, no network, no files, killed as a group.

    from forkpoint.sandbox import Pool, Trial
    with Pool(workers=2) as pool:
        outcome = pool.run(Trial(program="def f(x): return x + 1", judge="assert candidate(1) == 2", entry="f"))

`protections().statement()` says what holds on this machine and what does not.
"""

from forkpoint.sandbox.pool import Pool
from forkpoint.sandbox.protections import Protections, protections
from forkpoint.sandbox.trial import Limits, Outcome, Trial

__all__ = ["Limits", "Outcome", "Pool", "Protections", "Trial", "protections"]
