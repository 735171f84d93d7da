"""Small parts with the settings that most tests share."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from seqrl import files
from seqrl.algorithms.ppo import PPOAlgorithm, SequencePPOAlgorithm
from seqrl.algorithms.reinforce import SequenceReinforceAlgorithm
from seqrl.networks import GRU, GTrXL, Matrix, MinGRU, Network, recurrent_network

NETWORKS = {
    "lstm": {"use_lstm": True, "use_attention": False},
    "lstm+attention": {"use_lstm": True, "use_attention": True},
    "attention": {"use_lstm": False, "use_attention": True},
    "separate critic": {"use_lstm": True, "use_attention": True, "separate_critic": True},
    "gru": {"use_lstm": True, "use_attention": False, "memory": GRU},
    "mingru": {"use_lstm": True, "use_attention": False, "memory": MinGRU},
    "matrix": {"use_lstm": True, "use_attention": False, "memory": partial(Matrix, heads=2)},
    "gtrxl": {"use_lstm": True, "use_attention": False, "memory": partial(GTrXL, window=3, heads=2)},
    "two layers": {"use_lstm": True, "use_attention": True, "memory": MinGRU, "layers": 2},
    "memoryless": {"use_lstm": False, "use_attention": False},
}


def small_network(env, kind="lstm+attention", dtype=torch.float32, seed=0, **more) -> Network:
    """Network of one of the NETWORKS, every parameter random, so that no head or bias is idle."""
    parts = {"hidden_size": 8, "lstm_hidden_size": 8, "window": 3, "heads": 2, "separate_critic": False}
    network = recurrent_network(env.observation_space, env.action_space, **{**parts, **NETWORKS[kind], **more})
    random = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.detach().normal_(0, 0.5, generator=random)
    return network.to(dtype)


SHARED = {
    "learning_rate": 1e-3,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "epochs": 2,
    "minibatches": 3,
    "minibatch_steps": 1024,
    "entropy_coefficient": 0.01,
    "value_coefficient": 0.5,
    "normalize_advantage": "batch",
    "normalize_value": True,
    "normalize_reward": False,
    "anneal": [],
    "grad_clip_norm": 0.5,
    "bptt_length": 0,
    "stale_state": "keep",
    "burn_in": 3,
    "max_tokens_per_batch": None,
    "gradient_parts": 1,
}


def ppo(network, *, standard=False, seed=0, **changes) -> SequencePPOAlgorithm:
    build = PPOAlgorithm if standard else SequencePPOAlgorithm
    settings = {**SHARED, "clip_range": 0.2, "target_kl": None}
    return build(network, np.random.default_rng(seed), **{**settings, **changes})


def reinforce(network, *, seed=0, **changes) -> SequenceReinforceAlgorithm:
    settings = {**SHARED, "gae_lambda": 1.0, "epochs": 1, "baseline": "value"}
    return SequenceReinforceAlgorithm(network, np.random.default_rng(seed), **{**settings, **changes})


def refuse(monkeypatch: pytest.MonkeyPatch, path: Path, number: int) -> None:
    """Have the system refuse a file with an error, for root, too."""

    def opened(name: str, flags: int) -> int:
        if Path(name) == path:
            raise OSError(number, os.strerror(number), name)
        return without_links(name, flags)

    without_links = files._without_links
    monkeypatch.setattr(files, "_without_links", opened)


@contextmanager
def room(most: int) -> Iterator[None]:
    """Have the system refuse files of more bytes, as a disk does that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
