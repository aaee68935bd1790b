"""The random projection: reproducible signs, inner products preserved within the theoretical error."""

import numpy as np
import pytest

from curation.signals.gradients.projection import Projection

torch = pytest.importorskip("torch")
MASK = (1 << 64) - 1


def splitmix(z):
    """The finaliser in plain Python integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def sign(seed, row, column, words):
    """One entry of the matrix, from the definition."""
    gamma = 0x9E3779B97F4A7C15
    state = splitmix(((seed + 1) * gamma) & MASK)
    word = splitmix(((row * words + column // 64 + 1) * gamma + state) & MASK)
    return 2 * ((word >> (column % 64)) & 1) - 1


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_every_sign_follows_from_seed_row_and_column(seed):
    signs = Projection(100, seed).signs(999_999, 1_000_003)
    assert signs.shape == (4, 100) and signs.dtype == torch.float32
    assert signs.tolist() == [
        [sign(seed, row, column, 2) for column in range(100)] for row in range(999_999, 1_000_003)
    ]


def test_blocks_are_pieces_of_one_matrix():
    whole = Projection(130, 3).signs(0, 50)
    assert torch.equal(Projection(130, 3).signs(17, 40), whole[17:40])
    assert not torch.equal(Projection(130, 4).signs(0, 50), whole)


def test_signs_are_fair_and_their_rows_and_columns_unrelated():
    signs = Projection(512, 0).signs(0, 2000)
    assert abs(signs.mean().item()) < 4 / (512 * 2000) ** 0.5
    columns = signs.T @ signs / 2000 - torch.eye(512)
    rows = signs @ signs.T / 512 - torch.eye(2000)
    assert columns.abs().max() < 6 / 2000**0.5 and rows.abs().max() < 6 / 512**0.5


def test_the_projection_does_not_depend_on_the_blocks_or_on_how_a_vector_is_cut():
    x = torch.randn(5, 700, generator=torch.Generator().manual_seed(0))
    once, pieces = torch.zeros(5, 96), torch.zeros(5, 96)
    Projection(96, 0).add(once, x, 0)
    small = Projection(96, 0, block_elements=3000)
    assert small.rows == 23
    small.add(pieces, x[:, 250:], 250)
    small.add(pieces, x[:, :250], 0)
    torch.testing.assert_close(pieces, once, atol=1e-5, rtol=0)
    torch.testing.assert_close(once, x @ Projection(96, 0).signs(0, 700) / 96**0.5, atol=1e-5, rtol=0)


@pytest.mark.parametrize("cosine", [0.0, 0.5, 0.95])
def test_inner_products_are_preserved_within_the_expected_error(cosine):
    """The error has mean 0 and standard deviation sqrt((1 + cos^2 - 2 sum u^2 v^2) / dim)."""
    pairs, size, dim = 300, 2000, 512
    generator = torch.Generator().manual_seed(1)
    u, w = (
        torch.nn.functional.normalize(torch.randn(pairs, size, generator=generator), dim=1) for _ in range(2)
    )
    w = torch.nn.functional.normalize(w - (w * u).sum(1, keepdim=True) * u, dim=1)
    v = cosine * u + (1 - cosine**2) ** 0.5 * w
    sketches = torch.zeros(2, pairs, dim)
    for sketch, vectors in zip(sketches, (u, v), strict=True):
        Projection(dim, 7).add(sketch, vectors, 0)
    errors = ((sketches[0] * sketches[1]).sum(1) - (u * v).sum(1)).double().numpy()
    expected = np.sqrt((1 + cosine**2 - 2 * (u * v).square().sum(1).mean().item()) / dim)
    assert abs(errors.mean()) < 4 * expected / pairs**0.5
    assert 0.85 * expected < errors.std() < 1.15 * expected


@pytest.mark.parametrize(("dim", "seed"), [(0, 0), (8, -1)])
def test_invalid_dim_and_seed_are_refused(dim, seed):
    with pytest.raises(ValueError, match="at least"):
        Projection(dim, seed)
