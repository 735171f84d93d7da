import numpy as np
import pytest

from seqrl.statistics import difference, estimate, holm, interquartile_mean, mean


def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end():
    assert interquartile_mean(np.array([0.0, 1.0, 2.0, 100.0])) == 1.5
    assert interquartile_mean(np.array([-50.0, 1.0, 2.0, 3.0, 100.0])) == 2.0
    # Too few to leave any out.
    assert interquartile_mean(np.array([1.0, 2.0, 6.0])) == 3.0
    curves = np.array([[0.0, 9.0], [1.0, 1.0], [2.0, 2.0], [100.0, -9.0]])
    assert interquartile_mean(curves).tolist() == [1.5, 1.5]


def test_the_bootstrap_draws_within_each_stratum():
    # Between the strata lies all the difference, within them none: nothing is uncertain.
    of = estimate([np.zeros(4), np.full(4, 10.0)])
    assert (of.value, of.low, of.high) == (5.0, 5.0, 5.0)
    spread = estimate([np.arange(20.0)])
    assert spread.value == 9.5
    assert 4 < spread.low < 8 < 11 < spread.high < 15


def test_the_interval_of_a_mean_holds_it_as_often_as_it_says():
    random = np.random.default_rng(0)
    of = [mean(random.normal(size=30)) for _ in range(150)]
    assert 0.89 < np.mean([it.low < 0 < it.high for it in of]) < 0.98
    alone = mean(np.array([2.0]))
    assert alone.value == 2
    assert np.isnan([alone.low, alone.high]).all()


def test_the_permutation_test_counts_every_way_of_dealing():
    of, p = difference(np.array([1.0, 2.0, 3.0]), np.array([-1.0, -2.0, -3.0]))
    assert of.value == 4
    # 2 of the 20 ways are as far apart.
    assert p == pytest.approx(2 / 20)
    assert difference(np.ones(5), np.ones(5))[1] == 1
    random = np.random.default_rng(0)
    _, p = difference(random.normal(1, 1, 40), random.normal(0, 1, 40))
    assert p < 0.01


def test_the_permutation_test_is_wrong_as_often_as_it_says():
    random = np.random.default_rng(1)
    p_values = [difference(random.normal(size=5), random.normal(size=5))[1] for _ in range(400)]
    assert 0.02 < np.mean(np.array(p_values) <= 0.05) < 0.08


def test_holm_multiplies_the_smallest_by_their_number_and_never_falls():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.9]) == [1, 1]
    assert holm([]) == []
