"""A device is tested before it is used; here the CPU stands in for the device, and the network is faulty."""

import os
import time
from functools import partial

import pytest
import torch
from gymnasium import spaces

from seqrl.devices import probe
from seqrl.networks import LSTM, Encoder, Network, Trunk, recurrent_network
from tests.parts import NETWORKS

BOX, DISCRETE = spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(4)
CPU = torch.device("cpu")


class Faulty(Network):
    """Sound for its two runs on the CPU, the reference; faulty the third time, on the device."""

    def __init__(self, observation_space, action_space, *, fault):
        super().__init__(Trunk(Encoder(observation_space, 4), {"lstm": LSTM(4, 4)}), None, 4, action_space)
        self.fault, self.runs = fault, 0

    def unroll(self, batch):
        policy, value = super().unroll(batch)
        self.runs += 1
        return (policy, value) if self.runs < 3 else (policy, self.fault(self, value))


def aborts(network, value):
    os.write(2, b"Assertion failed: (shape4.size() >= 3), function lstm.\n")
    os.abort()


def hangs(network, value):
    time.sleep(60)


def runs_out_of_memory(network, value):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.\nSee the documentation.")


def has_a_wrong_gradient(network, value):
    network.actor.encoder.layer.weight.register_hook(lambda gradient: 1.5 * gradient)
    return value


def is_never_a_number(network, value):
    return value * float("nan")


def network_of(kind):
    sizes = {"hidden_size": 8, "lstm_hidden_size": 8, "window": 3, "heads": 2, "separate_critic": False}
    return partial(recurrent_network, **sizes | NETWORKS[kind])


@pytest.mark.slow
def test_a_sound_device_passes_in_a_child():
    assert probe.probe(network_of("lstm+attention"), BOX, DISCRETE, CPU) is None


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize(
    ("fault", "timeout_seconds", "sentence"),
    [
        (
            aborts,
            60,
            "a small step of the network on cpu kills the process with SIGABRT: "
            "Assertion failed: (shape4.size() >= 3), function lstm",
        ),
        (hangs, 2, "the network did not finish a small step on cpu within 2 seconds"),
    ],
)
def test_what_no_exception_handler_outlives_becomes_a_sentence(fault, timeout_seconds, sentence):
    build = partial(Faulty, fault=fault)
    assert probe.probe(build, BOX, DISCRETE, CPU, timeout_seconds=timeout_seconds) == sentence


def test_a_network_that_no_child_can_build_is_reported_in_a_sentence():
    fault = probe.probe(lambda *spaces: None, BOX, DISCRETE, torch.device("mps"))
    assert "cannot be tested on mps, because a child process cannot build it: " in fault


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (
            runs_out_of_memory,
            "the network fails on cpu: OutOfMemoryError: CUDA out of memory. Tried to allocate 20 MiB",
        ),
        (is_never_a_number, "the value is off by nan times its size on cpu, not what the CPU computes"),
        (
            has_a_wrong_gradient,
            "the gradient of actor.encoder.layer.weight is off by 0.5 times its size on cpu, not what the CPU computes",
        ),
    ],
)
def test_a_wrong_number_is_named(fault, sentence):
    assert probe.fault(partial(Faulty, fault=fault), BOX, DISCRETE, CPU, torch.float64) == sentence


@pytest.mark.thin(7)
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("action_space", [DISCRETE, BOX])
@pytest.mark.parametrize(
    "observation_space", [BOX, spaces.Discrete(5), spaces.MultiBinary(3), spaces.Box(0, 255, (4, 2))]
)
def test_every_network_passes(kind, action_space, observation_space):
    assert probe.fault(network_of(kind), observation_space, action_space, CPU, torch.float32) is None
    # There was something to compare.
    data = probe.samples(observation_space, 0), probe.samples(action_space, 1)
    numbers = probe.numbers(network_of(kind)(observation_space, action_space), *data)
    assert all(torch.isfinite(tensor).all() for tensor in numbers.values())


def test_a_network_that_draws_at_random_only_has_to_run():
    def with_dropout(observation_space, action_space):
        network = Faulty(observation_space, action_space, fault=lambda network, value: value)
        network.value.hidden.append(torch.nn.Dropout())
        return network

    assert probe.fault(with_dropout, BOX, DISCRETE, CPU, torch.float32) is None


def test_a_network_that_fails_on_the_cpu_is_not_blamed_on_the_device():
    assert probe.fault(lambda *spaces: 1 / 0, BOX, DISCRETE, torch.device("mps"), torch.float32) is None
