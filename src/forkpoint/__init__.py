"""forkpoint: which tokens should learn?

The public names below load on first use, so that `import forkpoint` costs no more than it needs to.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PLACES = {
    "Batching": "forkpoint.scope",
    "Chain": "forkpoint.credit",
    "Credit": "forkpoint.rollouts",
    "ForkpointError": "forkpoint.errors",
    "Forward": "forkpoint.rollouts",
    "InputError": "forkpoint.errors",
    "Judgement": "forkpoint.rollouts",
    "Link": "forkpoint.credit",
    "Prompt": "forkpoint.rollouts",
    "Rollouts": "forkpoint.rollouts",
    "Task": "forkpoint.tasks.task",
    "TrainingError": "forkpoint.errors",
    "Verdict": "forkpoint.rollouts",
    "chain": "forkpoint.credit",
    "credit_of": "forkpoint.credit",
    "load_recipe": "forkpoint.train.recipe",
    "method_chain": "forkpoint.methods",
    "pass_at_k": "forkpoint.evaluate.passk",
    "report": "forkpoint.analyze.views.report",
    "token_logp_entropy": "forkpoint.entropy.token",
}
_ROOMS = ("analyze", "credit", "entropy", "evaluate", "loss", "methods", "rollouts", "scope", "tasks", "verify")

if TYPE_CHECKING:
    from forkpoint.analyze.views.report import report as report
    from forkpoint.credit import Chain as Chain
    from forkpoint.credit import Link as Link
    from forkpoint.credit import chain as chain
    from forkpoint.credit import credit_of as credit_of
    from forkpoint.errors import ForkpointError as ForkpointError
    from forkpoint.errors import InputError as InputError
    from forkpoint.errors import TrainingError as TrainingError
    from forkpoint.evaluate.passk import pass_at_k as pass_at_k
    from forkpoint.methods import method_chain as method_chain
    from forkpoint.rollouts import Credit as Credit
    from forkpoint.rollouts import Forward as Forward
    from forkpoint.rollouts import Judgement as Judgement
    from forkpoint.rollouts import Prompt as Prompt
    from forkpoint.rollouts import Rollouts as Rollouts
    from forkpoint.rollouts import Verdict as Verdict
    from forkpoint.scope import Batching as Batching
    from forkpoint.tasks.task import Task as Task
    from forkpoint.train.recipe import load_recipe as load_recipe

__all__ = [*_PLACES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        value = getattr(importlib.import_module(_PLACES[name]), name)
        globals()[name] = value
        return value
    if name in _ROOMS:
        return importlib.import_module(f"forkpoint.{name}")
    raise AttributeError(f"module 'forkpoint' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
