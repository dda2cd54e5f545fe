"""Counts how often the host reads what a device computed."""

from __future__ import annotations

from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

METHODS = {
    "item", "tolist", "numpy", "cpu", "nonzero", "unique", "masked_select", "equal", "allclose",
    "__bool__", "__int__", "__float__", "__index__",
}  # fmt: skip
OPERATIONS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal"}


class Looks:
    """A context that records reads; on a CPU, too, where they cost nothing."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        inner = self.seen

        class Functions(TorchFunctionMode):
            depth = 0

            def __torch_function__(self, function, types, args=(), kwargs=None):
                name = getattr(function, "__name__", "")
                if name in METHODS and Functions.depth == 0:
                    # `cpu().numpy()` is one read.
                    if name != "numpy":
                        inner.append(name)
                    Functions.depth += 1
                    try:
                        return function(*args, **(kwargs or {}))
                    finally:
                        Functions.depth -= 1
                return function(*args, **(kwargs or {}))

        class Operations(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                if function._schema.name in OPERATIONS and Functions.depth == 0:
                    inner.append(function._schema.name)
                return function(*args, **(kwargs or {}))

        self.modes = (Functions(), Operations())

    def __enter__(self) -> Looks:
        for mode in self.modes:
            mode.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        for mode in reversed(self.modes):
            mode.__exit__(*details)

    def __len__(self) -> int:
        return len(self.seen)

    def clear(self) -> None:
        """Forget what was seen."""
        self.seen.clear()
