import itertools

import pytest
import torch

from seqrl import seeds
from seqrl.networks.heads import BoundedGaussian, Categorical, Gaussian


def test_streams_of_neighbouring_seeds_names_and_parts_differ():
    names = ["init", "policy", "shuffle", "environment"]
    drawn = {
        seeds.stream(seed, name, *index) for seed in range(50) for name in names for index in [(), (0,), (1,), (0, 1)]
    }
    assert len(drawn) == 50 * len(names) * 4
    assert all(0 <= s < 2**63 for s in drawn)


def test_a_stream_repeats():
    draws = [torch.rand(3, generator=seeds.generator(5, "policy")).tolist() for _ in range(2)]
    assert draws[0] == draws[1]
    others = [torch.rand(3, generator=seeds.generator(s, n)).tolist() for s, n in [(5, "init"), (6, "policy")]]
    assert all(a != b for a, b in itertools.combinations([draws[0], *others], 2))


@pytest.mark.parametrize(
    "policy",
    [
        lambda rows: Categorical(torch.zeros(rows, 3)),
        lambda rows: Gaussian(torch.zeros(rows, 2), torch.zeros(2)),
        lambda rows: BoundedGaussian(torch.zeros(rows, 2), torch.zeros(2), torch.tensor([True, False])),
    ],
)
def test_what_a_row_draws_depends_on_no_other_row(policy):
    whole, part = (seeds.generator(0, "policy") for _ in range(2))
    for rows in ([0, 1, 2, 3, 4], [1, 3], [3]):
        part.rows, part.total = torch.tensor(rows), 5
        assert torch.equal(policy(5).sample(whole)[rows], policy(len(rows)).sample(part))
