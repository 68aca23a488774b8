"""The DPP prior against the definition of its probability, over all subsets of a 2 × 3 grid."""

from itertools import product

import numpy as np
import pytest
import torch
from reference import dpp_kernel, dpp_probability
from scipy.stats import chisquare
from torch import Tensor

from cellsegmenter.model.dpp import DeterminantalPointProcess

GRID = (2, 3)
SUBSETS = torch.tensor(list(product([0.0, 1.0], repeat=6)))  # (64, 6) presence of every point
EVERY_POINT = torch.arange(6).expand(64, 6)
PRIORS = [(1.5, 1.0), (3.5, 0.6), (0.5, 2.0)]  # expected objects, length


def prior(expected: float = 1.5, length: float = 1.0) -> DeterminantalPointProcess:
    return DeterminantalPointProcess(expected, GRID, length).double()


def log_probs(dpp: DeterminantalPointProcess) -> Tensor:
    """Of all 64 subsets."""
    return dpp.log_prob(EVERY_POINT, SUBSETS.double(), GRID).detach()


@pytest.mark.parametrize(("expected", "length"), PRIORS)
def test_probabilities_of_all_subsets_sum_to_one(expected, length):
    assert log_probs(prior(expected, length)).exp().sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("expected", "length"), PRIORS)
def test_probabilities_follow_the_definition(expected, length):
    dpp = prior(expected, length)
    kernel = dpp_kernel(GRID, dpp.log_rho.exp().item(), length)
    reference = [dpp_probability(kernel, np.flatnonzero(subset)) for subset in SUBSETS]
    np.testing.assert_allclose(log_probs(dpp).exp(), reference, atol=2e-3)  # the kernel's jitter


@pytest.mark.parametrize(("expected", "length"), PRIORS)
def test_the_mean_count_is_the_expected_one_at_the_start(expected, length):
    mean = (log_probs(prior(expected, length)).exp() * SUBSETS.sum(1)).sum().item()
    assert mean == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("expected", "length"), PRIORS)
def test_sampled_frequencies_match_the_probabilities(expected, length):
    dpp = prior(expected, length)
    random = np.random.default_rng(0)
    n = 2000
    observed = np.zeros(64)
    for _ in range(n):
        chosen = dpp.sample(GRID, random)
        assert np.array_equal(chosen, np.unique(chosen))
        observed[int((2 ** (5 - chosen)).sum())] += 1  # the row of SUBSETS
    wanted = log_probs(dpp).exp().numpy() * n
    wanted *= n / wanted.sum()
    group = np.where(wanted < 5, 64, np.arange(64))  # rare sets count together
    observed, wanted = (np.bincount(group, counts, minlength=65) for counts in (observed, wanted))
    assert (wanted > 0).sum() > 5
    assert chisquare(observed[wanted > 0], wanted[wanted > 0]).pvalue > 1e-3


def test_neighbours_repel():
    """A pair of neighbours is less probable than a pair far apart, and than independent points would be."""
    probability = log_probs(prior()).exp()
    both = [probability[(SUBSETS[:, 0] == 1) & (SUBSETS[:, j] == 1)].sum() for j in (1, 5)]
    each = [probability[SUBSETS[:, j] == 1].sum() for j in (0, 1)]
    assert both[0] < both[1]
    assert both[0] < each[0] * each[1]


@pytest.mark.parametrize(("expected", "length"), PRIORS)
def test_conditional_log_odds_are_differences_of_log_prob(expected, length):
    dpp = prior(expected, length)
    odds = dpp.conditional_log_odds(EVERY_POINT, SUBSETS.double(), GRID).detach()
    for slot in range(6):
        with_slot, without = SUBSETS.double().clone(), SUBSETS.double().clone()
        with_slot[:, slot], without[:, slot] = 1, 0
        difference = dpp.log_prob(EVERY_POINT, with_slot, GRID) - dpp.log_prob(EVERY_POINT, without, GRID)
        np.testing.assert_allclose(odds[:, slot], difference.detach(), atol=1e-6)


def test_order_and_absent_slots_do_not_matter():
    dpp = prior()
    one, zero = 1.0, 0.0
    index = torch.tensor([[1, 3, 5, 0], [5, 0, 1, 3], [3, 1, 2, 5]])
    presence = torch.tensor([[one, one, one, zero], [one, zero, one, one], [one, one, zero, one]]).double()
    together = dpp.log_prob(index, presence, GRID).detach()
    alone = dpp.log_prob(torch.tensor([[1, 3, 5]]), torch.ones(1, 3).double(), GRID).detach()
    np.testing.assert_allclose(together, alone.expand(3), atol=1e-10)


def test_single_precision_holds_for_a_dense_grid_with_a_long_kernel():
    """Fifty points that the kernel hardly tells apart: the factorisations stay finite."""
    dpp = DeterminantalPointProcess(10.0, (20, 20), length=4.0)
    index = torch.arange(50).unsqueeze(0)
    presence = (torch.arange(50) % 2 == 0).float().unsqueeze(0)
    assert torch.isfinite(dpp.log_prob(index, presence, (20, 20))).all()
    assert torch.isfinite(dpp.conditional_log_odds(index, presence, (20, 20))).all()


def test_maximum_likelihood_raises_the_strength_when_sets_are_fuller():
    dpp = prior(expected=1.0)
    full, empty = (torch.full((1, 6), c).double() for c in (1.0, 0.0))
    for presence, sign in ((full, 1), (empty, -1)):
        (gradient,) = torch.autograd.grad(dpp.log_prob(EVERY_POINT[:1], presence, GRID).sum(), dpp.log_rho)
        assert sign * gradient > 0
