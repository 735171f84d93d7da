import numpy as np
import pytest

from seqrl.statistics import difference, estimate, holm, interquartile_mean, least_p, mean, units_to_decide


def test_the_interquartile_mean_drops_a_quarter_at_either_end():
    assert interquartile_mean(np.array([0.0, 1.0, 2.0, 100.0])) == 1.5
    assert interquartile_mean(np.array([-50.0, 1.0, 2.0, 3.0, 100.0])) == 2.0
    # Too few values to drop any.
    assert interquartile_mean(np.array([1.0, 2.0, 6.0])) == 3.0
    curves = np.array([[0.0, 9.0], [1.0, 1.0], [2.0, 2.0], [100.0, -9.0]])
    assert interquartile_mean(curves).tolist() == [1.5, 1.5]


def test_the_bootstrap_resamples_within_each_stratum():
    # All variation is between the strata and none within, so nothing is uncertain.
    of = estimate([np.zeros(4), np.full(4, 10.0)])
    assert (of.value, of.low, of.high) == (5.0, 5.0, 5.0)
    spread = estimate([np.arange(20.0)])
    assert spread.value == 9.5
    assert 4 < spread.low < 8 < 11 < spread.high < 15


@pytest.mark.slow
def test_the_interval_of_a_mean_has_its_nominal_coverage():
    random = np.random.default_rng(0)
    of = [mean(random.normal(size=30)) for _ in range(150)]
    assert 0.89 < np.mean([interval.low < 0 < interval.high for interval in of]) < 0.98
    few = [mean(random.normal(size=10)) for _ in range(1500)]
    # Without the widening, some 0.90.
    assert 0.93 < np.mean([interval.low < 0 < interval.high for interval in few]) < 0.97
    alone = mean(np.array([2.0]))
    assert alone.value == 2
    assert np.isnan([alone.low, alone.high]).all()


def test_the_permutation_test_counts_every_split():
    of, p = difference(np.array([1.0, 2.0, 3.0]), np.array([-1.0, -2.0, -3.0]))
    assert of.value == 4
    # 2 of the 20 splits differ as much.
    assert p == pytest.approx(2 / 20)
    assert difference(np.ones(5), np.ones(5))[1] == 1
    random = np.random.default_rng(0)
    _, p = difference(random.normal(1, 1, 40), random.normal(0, 1, 40))
    assert p < 0.01


@pytest.mark.parametrize("common", [1e6, -1e9, 1e12])
def test_what_all_values_have_in_common_changes_no_p_value(common):
    random = np.random.default_rng(0)
    for _ in range(50):
        a, b = random.integers(0, 1000, size=(2, 3)) / 4
        (by, p), (by_too, p_too) = difference(a, b), difference(a + common, b + common)
        assert p == p_too >= least_p(3, 3)
        assert (by.value, by.low, by.high) == pytest.approx((by_too.value, by_too.low, by_too.high))


def test_the_permutation_test_has_its_nominal_error_rate():
    random = np.random.default_rng(1)
    p_values = [difference(random.normal(size=5), random.normal(size=5))[1] for _ in range(400)]
    assert 0.02 < np.mean(np.array(p_values) <= 0.05) < 0.08


def test_holm_multiplies_the_smallest_by_their_number_and_never_falls():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.9]) == [1, 1]
    assert holm([]) == []


@pytest.mark.parametrize(("a", "b"), [(2, 2), (3, 3), (2, 5), (4, 4)])
def test_the_least_p_value_is_that_of_groups_that_do_not_overlap(a, b):
    low, high = np.arange(a, dtype=float), 100.0 + np.arange(b)
    assert difference(low, high)[1] == pytest.approx(least_p(a, b))


def test_four_seeds_can_decide_one_comparison_and_three_cannot():
    assert least_p(3, 3) > 0.05 > least_p(4, 4)
    assert [units_to_decide(tests, 0.05) for tests in (1, 2, 8)] == [4, 5, 6]
