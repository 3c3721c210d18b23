"""The Triton kernel: under the interpreter against float64, and compiled for a GPU that need not be here."""

import os
import subprocess
import sys
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="Triton is not installed")

from caad_ds.loss import triton_kernel
from caad_ds.loss.divergence import DIVERGENCES
from tests.loss.conftest import agreeing, close
from tests.loss.test_loss_accuracy import (
    assert_close,
    drawn,
    scalars,
    small_chunks,
    tensors,
)

WRITTEN = [name for name, divergence in DIVERGENCES.items() if "triton" in divergence.kernels]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter computes masked-out lanes too, such as -inf - -inf, and numpy tells.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@settings(max_examples=36, deadline=None, derandomize=True)
@given(
    shape=tensors.map(lambda shape: shape | {"rows": min(shape["rows"], 7)}),
    options=scalars.filter(lambda options: options["divergence"] in WRITTEN),
    sharpen=st.sampled_from([None, None, 1.5]),
    block=st.sampled_from([16, 64, 4096]),
)
def test_matches_the_reference_in_float64(problem, shape, options, sharpen, block):
    p, exact = drawn(problem, shape, options, sharpen)
    with small_chunks(p, 3), patch.object(triton_kernel, "BLOCK", block):
        placed = {name: x.to(DEVICE) if torch.is_tensor(x) else x for name, x in options.items()}
        found = p.to(DEVICE).with_gradients(implementation="triton", **placed)
    assert_close(p, options, (found[0], [gradient.cpu() for gradient in found[1]]), exact)


@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("divergence", WRITTEN)
def test_gradients_of_every_divergence(problem, divergence, softcap):
    """Away from the sweep's extremes, where a wrong factor is far beyond what rounding may do."""
    options = {"alpha": 1.0, "temperature": 2.0, "kd_weight": 0.7, "divergence": divergence, "mix": 0.2}
    p = problem(rows=5, vocab=37, scale=3.0, bias=True, softcap=softcap)
    exact = p.to(torch.float64).with_gradients(implementation="reference", **options)
    with patch.object(triton_kernel, "BLOCK", 16):
        out, gradients = p.to(DEVICE).with_gradients(implementation="triton", **options)
    assert_close(p, options, (out, [gradient.cpu() for gradient in gradients]), exact)


@pytest.mark.parametrize("options", [{}, {"plausibility": 0.1}, {"divergence": "jsd"}, {"kd_weight": 0.0}])
def test_diagnostics_are_those_of_the_chunked_version(problem, options):
    p = agreeing(problem(rows=12, vocab=101, widths=(7, 7), masked=0.3, softcap=5.0, scale=3.0))
    with patch.object(triton_kernel, "BLOCK", 32):
        found = p.to(DEVICE).loss(implementation="triton", **options).diagnostics
    expected = p.loss(implementation="chunked", **options).diagnostics
    assert set(found) == set(expected)
    for name, value in expected.items():
        close(found[name].cpu(), value)


@pytest.mark.parametrize("name", ["student", "positive"])
@pytest.mark.parametrize("divergence", WRITTEN)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_stays_none(problem, name, divergence, value):
    p = problem(vocab=37)
    getattr(p, name)[2, 0] = value
    with patch.object(triton_kernel, "BLOCK", 16):
        out = p.to(DEVICE).loss(implementation="triton", divergence=divergence)
    assert out.loss.isnan() and out.kd.isnan()


def test_ignored_rows_may_hold_anything(problem):
    p, clean = problem(masked=0.5), problem(masked=0.5)
    p.student[p.labels == -100] = float("nan")
    found, expected = (x.to(DEVICE).with_gradients(implementation="triton") for x in (p, clean))
    assert found[0].loss == expected[0].loss
    assert all(torch.equal(a, b) for a, b in zip(found[1], expected[1], strict=True))


def test_bad_input(problem):
    p = problem()
    with pytest.raises(ValueError, match=r"student_hidden\.dtype"):
        p.to(torch.float64).loss(implementation="triton")
    with pytest.raises(ValueError, match="logits is bfloat16, expected float32 unless"):
        p.loss(implementation="triton", logits="bfloat16")
    with pytest.raises(ValueError, match="logits is bfloat16, expected float32 unless"):
        p.loss(logits="bfloat16")
    if DEVICE == "cpu":
        with patch.dict(os.environ, TRITON_INTERPRET="0"), pytest.raises(ValueError, match="TRITON_INTERPRET"):
            p.loss(implementation="triton")


COMPILE = """
import warnings
warnings.simplefilter("ignore")
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from caad_ds.loss import triton_kernel
from caad_ds.loss.divergence import DIVERGENCES
from caad_ds.loss.triton_kernel import BLOCK, STAGES, _entropies, _rows

POINTERS = {name: "*fp32" for name in ("bias_s", "bias_t", "weights", "kd_shares", "alphas", "out")}
POINTERS |= {"labels": "*i64", "valid": "*i1", "rows": "i32", "vocab": "i32"}
FLAGS = ("TEACHER", "SEPARATE", "NEGATIVE", "ALPHAS", "PLAUSIBILITY", "LABELS", "STUDENT_BIAS", "TEACHER_BIAS",
         "STUDENT_CAP", "TEACHER_CAP", "GRADIENT")

def compiled(logits, gradient, divergence, on):
    types = POINTERS | {name: f"*{logits}" for name in ("z_s", "z_t", "z_n")} | {"gradient": f"*{gradient}"}
    constants = {name: name in on for name in FLAGS} | {"DIVERGENCE": divergence, "BLOCK": BLOCK}
    return built(_rows, types, constants | {"STAGES": STAGES[4 if logits == "fp32" else 2]})

def built(kernel, types, constants):
    signature = {name: "constexpr" if name in constants else types.get(name, "fp32") for name in kernel.arg_names}
    source = ASTSource(kernel, signature, constants)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8}).asm["cubin"]

for name in [name for name, divergence in DIVERGENCES.items() if "triton" in divergence.kernels]:
    assert compiled("fp32", "bf16", name, ("TEACHER", "LABELS", "GRADIENT"))
assert compiled("bf16", "bf16", "forward_kl", ("TEACHER", "LABELS", "GRADIENT"))
assert compiled("fp32", "fp32", "jsd", FLAGS)
assert compiled("fp32", "fp32", "forward_kl", ("LABELS",))
for logits, size in (("fp32", 4), ("bf16", 2)):
    for on in (True, False):
        types = {"z": f"*{logits}", "bias": "*fp32", "out": "*fp32", "vocab": "i32"}
        assert built(_entropies, types, {"BIAS": on, "CAP": on, "BLOCK": BLOCK, "STAGES": STAGES[size]})
"""


@pytest.mark.slow
def test_compiles_for_a_gpu_that_is_not_here(tmp_path):
    """For sm_90 by Triton's own assembler; the interpreter accepts more than the compiler does."""
    env = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
