"""The Triton kernels in Triton's interpreter against float64 logits, and compiled for architectures not at hand.

Both need a process of their own: the interpreter is chosen by an environment variable before Triton is imported.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from forkpoint.entropy import tiles
from forkpoint.entropy.head import head_logp_entropy
from forkpoint.errors import InputError

ROWS, H, V, BLOCK, TILE_WORDS = 7, 6, 300, 64, 150
CASES = {
    "plain": {},
    "temperature and scale": {"temperature": 0.6, "scale": 1.4},
    "bias with masked words": {"bias": True},
    "soft-cap": {"softcap": 3.0},
    "entropy gradient": {"entropy_gradient": True},
    "everything": {"temperature": 1.7, "scale": 0.8, "bias": True, "softcap": 5.0, "entropy_gradient": True},
}
OUTPUTS = ["logp", "entropy", "log partition", "dh", "dW", "db"]
ARCHITECTURES = [80, 90, 100]
FLAGS = {"plain": False, "full": True}

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def errors_of(case):
    """Return the largest error of every output and gradient, float32 kernels against materialised float64."""
    settings = dict(CASES[case])
    use_bias = settings.pop("bias", False)
    generator = torch.Generator().manual_seed(3)
    hidden, weight, bias = (
        torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((ROWS, H), (V, H), (V,))
    )
    ids = torch.randint(V, (ROWS,), generator=generator)
    upstream = torch.randn(3, ROWS, generator=generator, dtype=torch.float64)
    upstream[:, 2] = 0.0
    if use_bias:
        # A whole block is masked, and every fifth word.
        bias[:BLOCK] = bias[::5] = -torch.inf
        ids = (ids // 5 * 5 + 1).clamp(min=BLOCK + 2)
        ids[ids % 5 == 0] += 1
    found = []
    for ours in (True, False):
        leaves = [x.to(torch.float32 if ours else torch.float64).requires_grad_() for x in (hidden, weight, bias)]
        args = (leaves[0], leaves[1], ids, leaves[2] if use_bias else None)
        values = run_kernels(*args, settings) if ours else materialised(*args, **settings)
        terms = zip(values, upstream, strict=True)
        sum((v * g.to(v.dtype)).sum() for v, g in terms if v.requires_grad).backward()
        gradients = [leaf.grad for leaf in leaves]
        found.append([x.detach().double() for x in [*values, *gradients] if x is not None])
    return dict(zip(OUTPUTS, (float((a - b).abs().max()) for a, b in zip(*found, strict=True)), strict=False))


def run_kernels(hidden, weight, ids, bias, settings):
    return head_logp_entropy(
        hidden, weight, ids, bias_V=bias, tile_cells=ROWS * TILE_WORDS, backend="triton", **settings
    )


def materialised(hidden, weight, ids, bias, *, temperature=1.0, scale=1.0, softcap=None, entropy_gradient=False):
    u = hidden @ weight.t()
    u = scale * (u if bias is None else u + bias.masked_fill(bias == -torch.inf, 0.0))
    z = (u if softcap is None else softcap * torch.tanh(u / softcap)) / temperature
    z = z if bias is None else z.masked_fill(bias == -torch.inf, -torch.inf)
    log_p = torch.log_softmax(z, -1)
    open_p = log_p if bias is None else log_p[:, bias.isfinite()]
    entropy = -(open_p.exp() * open_p).sum(-1)
    entropy = entropy if entropy_gradient else entropy.detach()
    return log_p.gather(1, ids[:, None]).squeeze(1), entropy, torch.logsumexp(z, -1)


def cubins():
    """Compile both kernels, bare and with everything switched on, and ask the assembler about spills."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from forkpoint.entropy import tiles_triton as kernels

    types = {
        "first": "i32", "columns": "i32", "u_stride": "i32", "out_stride": "i32", "ids_ptr": "*i64",
        "out_ptr": "*bf16", "bias_ptr": "*bf16", "total_ptr": "*fp64", "centred_ptr": "*fp64",
        "inner": "fp32", "outer": "fp32", "slope": "fp32",
    }  # fmt: skip
    found = {}
    for kernel in (kernels.fold_kernel, kernels.dlogits_kernel):
        names = kernel.arg_names
        for flags, on in FLAGS.items():
            constants = {n: on for n in names if n.startswith("HAS_")} | {"BLOCK": kernels.BLOCK}
            signature = {n: "constexpr" if n in constants else types.get(n, "*fp32") for n in names}
            for architecture in ARCHITECTURES:
                source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
                target = GPUTarget("cuda", architecture, 32)
                made = triton.compile(
                    source, target=target, options={"num_warps": kernels.WARPS, "enable_fp_fusion": True}
                )
                found[f"{kernel.__name__} {flags} {architecture}"] = {
                    "cubin": len(made.asm["cubin"]), **assembled(made.asm["ptx"], architecture),
                }  # fmt: skip
    return found


def assembled(ptx, architecture):
    """Return spilled bytes and registers of a kernel as the assembler inside Triton's own package tells them."""
    from triton.backends.nvidia.compiler import get_ptxas

    target = re.search(r"\.target (sm_\w+)", ptx).group(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        command = [get_ptxas(architecture).path, "-v", f"--gpu-name={target}", path, "-o", path.with_suffix(".cubin")]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", said)
    assert len(spills) == 2, said
    return {"spills": sum(map(int, spills)), "registers": int(re.search(r"Used (\d+) registers", said).group(1))}


def in_a_process(what, folder, **environment):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(folder), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, __file__, what], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    return in_a_process("errors", tmp_path_factory.mktemp("cache"), TRITON_INTERPRET="1")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return in_a_process("cubins", tmp_path_factory.mktemp("cache"), TRITON_INTERPRET="0")


@needs_triton
@pytest.mark.parametrize("case", CASES)
def test_kernels_match_float64_logits(interpreted, case):
    errors = interpreted["errors"][case]
    assert set(errors) == set(OUTPUTS if CASES[case].get("bias") else OUTPUTS[:-1])
    for name, error in errors.items():
        assert error < 2e-5, name


@needs_triton
def test_the_kernels_are_what_ran(interpreted):
    """Both passes have two tiles of 128 words and one of 44."""
    assert interpreted["calls"] == {"fold_kernel": 3 * len(CASES), "dlogits_kernel": 3 * len(CASES)}


@needs_triton
def test_nan_is_not_hidden_and_its_row_is_named(interpreted):
    assert interpreted["nan"].startswith("row 3 has no finite")


@needs_triton
def test_a_gradient_of_another_dtype_is_written_in_it(interpreted):
    """To one unit in the last of 8 bits: the interpreter truncates where a GPU rounds."""
    assert interpreted["bfloat16"]["dtype"] == "torch.bfloat16"
    assert interpreted["bfloat16"]["error"] <= 2**-7


@needs_triton
def test_ids_before_and_after_a_block_leave_the_target_alone(interpreted):
    assert interpreted["outside"] == [7.0, 7.0]


@needs_triton
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("kernel", ["fold_kernel", "dlogits_kernel"])
def test_kernels_compile_without_spills(compiled, kernel, flags, architecture):
    made = compiled[f"{kernel} {flags} {architecture}"]
    assert made["cubin"] > 1000
    assert made["spills"] == 0


@needs_triton
def test_triton_on_a_cpu_is_refused(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(InputError, match="needs CUDA tensors, these are on cpu"):
        head_logp_entropy(torch.zeros(1, 2), torch.zeros(4, 2), torch.tensor([1]), backend="triton")


def test_without_triton_it_is_asked_for_and_auto_does_without(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "forkpoint.entropy.tiles_triton", raising=False)
    monkeypatch.delattr("forkpoint.entropy.tiles_triton", raising=False)
    cuda = torch.device("cuda")
    with pytest.raises(InputError, match="needs the package triton"):
        tiles.epilogues("triton", cuda, torch.float32)
    assert tiles.epilogues("auto", cuda, torch.float32).fold is tiles.fold


@needs_triton
def test_auto_takes_the_kernels_for_float32_tiles_on_cuda():
    cuda = torch.device("cuda")
    assert tiles.epilogues("auto", cuda, torch.float32).fold.__module__.endswith("tiles_triton")
    assert tiles.epilogues("auto", cuda, torch.float64).fold is tiles.fold
    assert tiles.epilogues("torch", cuda, torch.float32).fold is tiles.fold
    with pytest.raises(InputError, match="float32 tiles"):
        tiles.epilogues("triton", cuda, torch.float64)
    with pytest.raises(InputError, match="backend 'tritn' is unknown"):
        tiles.epilogues("tritn", cuda, torch.float32)


def interpreted_results():
    from forkpoint.entropy import tiles_triton

    tiles_triton.fold.__kwdefaults__["block"] = tiles_triton.to_dlogits.__kwdefaults__["block"] = BLOCK
    calls = {}
    for name in ("fold_kernel", "dlogits_kernel"):
        count(tiles_triton, name, calls)
    errors = {case: errors_of(case) for case in CASES}
    counted = dict(calls)
    hidden = torch.zeros(5, 2)
    hidden[3, 0] = torch.nan
    try:
        run_kernels(hidden, torch.ones(V, 2), torch.zeros(5, dtype=torch.int64), None, {})
        nan = "nothing was said"
    except InputError as error:
        nan = str(error)
    return {
        "errors": errors,
        "calls": counted,
        "nan": nan,
        "bfloat16": rounded(tiles_triton),
        "outside": outside(tiles_triton),
    }


def rounded(tiles_triton):
    generator = torch.Generator().manual_seed(5)
    u, a = torch.randn(3, 100, generator=generator), torch.randn(3, generator=generator)
    args = (torch.tensor([0, 50, 99]), u.logsumexp(1), None, tiles.Upstream(a, None, 0 * a), None, 0)
    shape = tiles.Shape(1.0, 1.0, None)
    wide = tiles_triton.to_dlogits(u.clone(), *args, shape, torch.float32)
    narrow = tiles_triton.to_dlogits(u.clone(), *args, shape, torch.bfloat16)
    return {"dtype": str(narrow.dtype), "error": float(((wide - narrow.float()) / wide).abs().max())}


def outside(tiles_triton):
    sums = tiles.running(2, torch.zeros(1), torch.float32)
    sums.target_N.fill_(7.0)
    tiles_triton.fold(torch.ones(2, 100), sums, torch.tensor([19, 120]), None, 20, tiles.Shape(1.0, 1.0, None))
    return sums.target_N.tolist()


def count(module, name, calls):
    kernel = getattr(module, name)

    class Counting:
        def __getitem__(self, grid):
            calls[name] = calls.get(name, 0) + 1
            return kernel[grid]

    setattr(module, name, Counting())


if __name__ == "__main__":
    print(json.dumps(interpreted_results() if sys.argv[1] == "errors" else cubins()))
