"""Nuclear norms of large Gram matrices: by a tridiagonal form and a quadrature, against eigenvalues and singular values."""

from __future__ import annotations

import functools
import multiprocessing

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from import_server import start_method
from threadpoolctl import threadpool_info, threadpool_limits
from torch import nn

from flowprune.engine.planning import CoupledModel
from flowprune.errors import ModelError
from flowprune.methods.importance import REGISTRY, NuclearNorm
from flowprune.methods.importance._passes.full_precision import full_precision
from flowprune.methods.importance._spectra import tridiagonal as tridiagonal_module
from flowprune.methods.importance._spectra.feature_spectra import StackedSpectra
from flowprune.methods.importance._spectra.gram import lower_gram
from flowprune.methods.importance._spectra.root_trace import root_traces
from flowprune.methods.importance._spectra.tridiagonal import one_thread_each, tridiagonal


def mirrored(lower: torch.Tensor) -> torch.Tensor:
    return lower.tril() + lower.tril(-1).mT


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("size", [2, 3, 64, 200])
def test_the_tridiagonal_form_has_the_eigenvalues_of_the_lower_triangle(size, dtype, tolerance):
    matrix = torch.randn(size, size, dtype=dtype, generator=torch.Generator().manual_seed(size))
    wanted = torch.linalg.eigvalsh(mirrored(matrix.double()))
    diagonal, beside = tridiagonal(matrix.triu(1).mul(7) + matrix.tril())
    found = torch.linalg.eigvalsh(diagonal.diag() + beside.diag(1) + beside.diag(-1))
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * float(wanted.abs().max()))


@given(
    st.integers(1, 4),
    st.integers(1, 40),
    st.integers(0, 45),
    st.floats(-30, 30),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_root_traces_are_sums_of_singular_values(matrices, size, rank, exponent, apart, seed):
    """Of B for T = B^T B, B bidiagonal: from nothing to full rank, of any size, in pieces or in one."""
    generator = torch.Generator().manual_seed(seed)
    upper = torch.randn(matrices, size, size, dtype=torch.float64, generator=generator).triu().tril(1)
    upper[:, min(rank, size) :] = 0
    if apart:
        upper.diagonal(1, 1, 2)[:, ::3] = 0
    upper *= 10**exponent
    product = upper.mT @ upper
    found = root_traces(product.diagonal(0, 1, 2), product.diagonal(1, 1, 2)).sums
    wanted = torch.linalg.svdvals(upper).sum(dim=1)
    # where T is singular its entries' rounding, 1e-16 of the largest, may show as 1e-8 in every eigenvalue's square root
    tolerance = 1e-9 * wanted if rank >= size and size < 5 else 3e-8 * size * upper.abs().amax(dim=(1, 2))
    assert ((found - wanted).abs() <= tolerance + 1e-9 * wanted).all()


@given(st.integers(1, 60), st.integers(0, 2**31))
def test_root_traces_of_well_conditioned_matrices_are_exact(size, seed):
    generator = torch.Generator().manual_seed(seed)
    beside = torch.rand(1, size - 1, dtype=torch.float64, generator=generator)
    diagonal = 2.1 + torch.rand(1, size, dtype=torch.float64, generator=generator)
    wanted = torch.linalg.eigvalsh(diagonal[0].diag() + beside[0].diag(1) + beside[0].diag(-1)).sqrt().sum()
    assert float(root_traces(diagonal, beside).sums / wanted) == pytest.approx(1, abs=1e-10)


def test_zeros_behind_a_tridiagonal_matrix_add_nothing_and_nothing_is_zero():
    diagonal, beside = torch.tensor([[2.0, 3.0]]).double(), torch.tensor([[1.0]]).double()
    longer = root_traces(torch.nn.functional.pad(diagonal, (0, 30)), torch.nn.functional.pad(beside, (0, 30))).sums
    torch.testing.assert_close(longer, root_traces(diagonal, beside).sums, rtol=1e-13, atol=0)
    assert root_traces(torch.zeros(2, 5).double(), torch.zeros(2, 4).double()).sums.tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (159, 20), (161, 33), (400, 64)])
def test_a_lower_gram_matrix_is_the_product(shape, dtype):
    rows = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    wanted = (rows.double() @ rows.double().T).tril()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    found = lower_gram(rows).tril().double()
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * float(wanted.abs().max()))


def maps_of(images: int) -> torch.Tensor:
    """``[images, 4, 16, 16]``: one ordinary channel, one silent on most images, one of rank 3, one dead."""
    generator = torch.Generator().manual_seed(images)
    maps = torch.randn(images, 4, 16, 16, generator=generator).relu()
    maps[images // 4 :, 1] = 0
    maps[:, 2] = torch.einsum(
        "ir,rhw->ihw", torch.rand(images, 3, generator=generator), torch.rand(3, 16, 16, generator=generator)
    )
    maps[:, 3] = 0
    return maps


def scores_of(maps: torch.Tensor, dtype: torch.dtype) -> np.ndarray:
    spectra = StackedSpectra(dtype)
    for batch in maps.split(100):
        spectra.add(batch)
    return spectra.scores().numpy()


@pytest.mark.parametrize("images", [150, 256, 300])  # on the images' side, just so, on the positions' side
@pytest.mark.parametrize(("dtype", "exact", "deficient"), [(torch.float64, 1e-10, 1e-6), (torch.float32, 1e-6, 2e-2)])
@pytest.mark.parametrize("without", [None, "SciPy's routine", "its result"])
def test_large_stacks_of_any_rank_have_the_sums_of_their_singular_values(
    images, dtype, exact, deficient, without, monkeypatch
):
    if without == "SciPy's routine":
        monkeypatch.setattr(tridiagonal_module, "_reduction", lambda name: None)
    elif without == "its result":
        monkeypatch.setattr(tridiagonal_module, "_reduction", lambda name: lambda *arguments: None)
        real = torch.Tensor.new_empty
        monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: real(*a, **k).fill_(torch.nan))
    maps = maps_of(images)
    found = scores_of(maps, dtype)
    stacked = maps.double().flatten(2).permute(1, 0, 2)
    wanted = torch.linalg.svdvals(stacked).sum(dim=1).numpy()
    np.testing.assert_allclose(found[[0, 3]], wanted[[0, 3]], rtol=exact)
    # squares leave something of singular values that are zero; silent images are left out, where they are the rows
    np.testing.assert_allclose(found[1], wanted[1], rtol=deficient if images > 256 else exact)
    # maps that are still there are taken once more in float64; of a Gram matrix in float32 the rounding stays
    np.testing.assert_allclose(found[2], wanted[2], rtol=deficient if images > 256 else 1e-6)


def test_maps_whose_squares_are_too_large_for_float32_are_scored_in_float64_or_refused(capfd):
    """Refused where the maps themselves are gone: more images than positions."""
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(2 * 144, 4)).eval()
    x = torch.rand(150, 1, 12, 12)
    groups = CoupledModel.of(model, x[:1]).coupling.groups
    for module in (model[0], model[2]):
        module.bias.data.zero_()
    plain = NuclearNorm([x[:140]], normalize="none", dtype="float64")(model, x[:1], groups)
    huge = NuclearNorm([1e19 * x[:140]], normalize="none", dtype="float32")(model, x[:1], groups)
    torch.testing.assert_close(huge[0], 1e19 * plain[0], rtol=1e-5, atol=0)
    with pytest.raises(ModelError, match=r"float32; pass dtype=torch.float64"):
        NuclearNorm([1e19 * x], dtype="float32")(model, x[:1], groups)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("rank", [1, 3, 30, 200])
def test_combinations_of_a_few_maps_are_scored_exactly(rank):
    """A filter that the flow has made constant is one of them."""
    generator = torch.Generator().manual_seed(rank)
    maps = torch.rand(300, rank, generator=generator) @ torch.rand(rank, 400, generator=generator)
    constant = torch.ones(300, 400) + 1e-4 * torch.rand(300, 1, generator=generator)
    found = scores_of(torch.stack([maps, constant], dim=1).view(300, 2, 20, 20), torch.float32)
    wanted = torch.linalg.svdvals(torch.stack([maps, constant]).double()).sum(dim=1).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def asked_for_elsewhere(asked: str, place: str) -> None:
    exec(asked)
    backend = functools.reduce(getattr, place.split("."), torch.backends)
    before = backend.fp32_precision
    assert before in ("tf32", "bf16"), before
    with full_precision():
        assert backend.fp32_precision == "ieee"
    assert backend.fp32_precision == before


@pytest.mark.parametrize(
    ("asked", "place"),
    [
        ("torch.backends.mkldnn.conv.fp32_precision = 'bf16'", "mkldnn.conv"),
        ("torch.backends.mkldnn.matmul.fp32_precision = 'bf16'", "mkldnn.matmul"),
        ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", "cuda.matmul"),
        ("torch.backends.cudnn.conv.fp32_precision = 'tf32'", "cudnn.conv"),
        ("torch.backends.cuda.matmul.allow_tf32 = True", "cuda.matmul"),
        ("torch.backends.fp32_precision = 'tf32'", "cudnn.conv"),
        ("torch.set_float32_matmul_precision('medium')", "mkldnn.matmul"),
    ],
)
def test_reduced_precision_that_was_asked_for_elsewhere_is_off_inside_and_given_back(asked, place):
    """In a process of its own: it is a setting of the whole process."""
    process = multiprocessing.get_context(start_method()).Process(target=asked_for_elsewhere, args=(asked, place))
    process.start()
    process.join(600)
    assert process.exitcode == 0


@pytest.mark.parametrize("criterion", ["nuclear_norm", "hrank", "taylor"])
def test_scores_do_not_depend_on_autocast(criterion):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 144, 5)).eval()
    x = torch.rand(150, 3, 12, 12)
    groups = CoupledModel.of(model, x[:1]).coupling.groups
    batches = [(x, torch.arange(150) % 5)]
    (plain,) = REGISTRY[criterion](batches)(model, x[:1], groups)
    with torch.autocast("cpu", torch.bfloat16):
        (cast,) = REGISTRY[criterion](batches)(model, x[:1], groups)
    assert torch.equal(plain, cast)


def test_lapacks_threads_come_back_when_the_last_one_leaves():
    def threads() -> list[int]:
        return [info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"]

    with threadpool_limits(2, user_api="blas"):
        before = threads()
        first, second = one_thread_each(), one_thread_each()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert set(threads()) == {1}
        second.__exit__(None, None, None)
        assert threads() == before and set(before) != {1}
