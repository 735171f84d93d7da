import itertools

import torch

from seqrl import seeds


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
