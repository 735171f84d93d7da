"""POPGym's tasks. Needs pip install -e ".[popgym]"; skipped otherwise."""

from contextlib import closing

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from seqrl.config.paths import CONF
from seqrl.config.validate import faults
from seqrl.run.build import constructor as build_part
from seqrl.run.build import make_env, make_network
from seqrl.runner import Runner

popgym = pytest.importorskip("popgym.envs")
pytestmark = pytest.mark.filterwarnings("ignore")

B = 3


def configured(*overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("config", [*overrides, "network.lstm_hidden_size=8", "network.hidden_size=8"])
    assert faults(cfg) == []
    return cfg, build_part(cfg.device)()


@pytest.mark.parametrize("name", ["RepeatPreviousEasy", "RepeatFirstEasy", "NoisyPositionOnlyCartPoleEasy"])
def test_a_task_plays_whole_episodes_through_gymnasium_and_repeats_with_its_seed(name):
    cfg, device = configured("env=gymnasium", f"env.id=popgym:popgym-{name}-v0")
    rollouts = []
    for _ in range(2):
        with closing(make_env(cfg, device, 2, "training")) as env:
            runner = Runner(env, make_network(cfg, env, device), 0, 0, torch.Generator().manual_seed(0))
            rollouts.append(runner.collect())
    first, second = rollouts
    assert first.ended.sum(0).tolist() == [1, 1]
    assert first.observation.equal(second.observation)
    assert first.reward.equal(second.reward)
    # POPGym's returns lie between -1 and 1.
    assert first.reward.where(first.valid, 0).sum(0).abs().max() <= 1 + 1e-6


class Dealer:
    """Shuffles POPGym's decks into the order of environment `b`."""

    def __init__(self, env, b, kind_of):
        self.env, self.b, self.kind_of = env, b, kind_of
        self.decks = 0

    def shuffle(self, deck):
        shown = self.env._shown[self.b].reshape(len(deck), -1)
        kinds = shown[:, self.decks % shown.shape[1]].tolist()
        self.decks += 1
        cards = {kind: np.flatnonzero(self.kind_of == kind).tolist() for kind in set(kinds)}
        # POPGym deals from the end of the deck.
        deck[:] = [cards[kind].pop() for kind in reversed(kinds)]


class Fate:
    """Starts POPGym's cart-pole in the state of environment `b`, and adds the same noise."""

    def __init__(self, env, b):
        self.env, self.b = env, b

    def uniform(self, low, high, size):
        assert (low, high, size) == (-0.05, 0.05, (4,))
        return self.env._state[self.b].numpy().copy()

    def normal(self, mean, deviation):
        assert (mean, *deviation) == (0, self.env.noise, self.env.noise)
        return self.env._noise[self.b].double().numpy()


def play_with_twins(env, twins, policy, steps):
    """Assert that `twins`, given the same actions, answer bit for bit alike; return the number of ends of each kind."""
    assert env.observation_space == twins[0].observation_space
    assert env.action_space == twins[0].action_space
    observation = env.reset()
    for b, twin in enumerate(twins):
        assert np.array_equal(twin.reset()[0], observation[b].numpy())
    ends = np.zeros(2)
    for t in range(steps):
        action = policy(t)
        step = env.step(action)
        for b, twin in enumerate(twins):
            seen, reward, terminated, truncated, _ = twin.step(action[b].item())
            assert np.array_equal(seen, step.observation[b].numpy())
            assert np.asarray(seen).dtype == step.observation[b].numpy().dtype
            assert np.float32(reward) == step.reward[b].numpy()
            assert (terminated, truncated) == (step.terminated[b].item(), step.truncated[b].item())
            ends += terminated, truncated
        ended = step.terminated | step.truncated
        observation = env.reset(ended)
        for b in ended.nonzero().flatten().tolist():
            assert np.array_equal(twins[b].reset()[0], observation[b].numpy())
    return ends


CARDS = {
    "RepeatFirstEasy": ["experiment=repeat_first"],
    "RepeatFirstMedium": ["env=repeat_first", "env.decks=8"],
    "RepeatFirstHard": ["env=repeat_first", "env.decks=16"],
    "RepeatPreviousEasy": ["experiment=repeat_previous"],
    "RepeatPreviousMedium": ["env=repeat_previous", "env.decks=2", "env.k=32"],
    "RepeatPreviousHard": ["env=repeat_previous", "env.decks=3", "env.k=64"],
    "CountRecallEasy": ["env=count_recall"],
    "CountRecallMedium": ["env=count_recall", "env.decks=2", "env.counted=suits"],
    "CountRecallHard": ["env=count_recall", "env.decks=4", "env.counted=ranks"],
}


@pytest.mark.thin(4)
@pytest.mark.parametrize("name", CARDS)
def test_a_card_game_plays_as_popgym_does(name):
    env, twins = make_env(*configured(*CARDS[name]), B, "training"), [getattr(popgym, name)() for _ in range(B)]
    for b, twin in enumerate(twins):
        twin.np_random = Dealer(env, b, twin.deck_idx_type if name.startswith("Count") else twin.deck.suits_idx)
    random = torch.Generator().manual_seed(0)

    def policy(t):
        """The right answer half of the time, otherwise a random one."""
        right = env._answer[:, int(env._age[0])].clamp_min(0)
        random_answer = torch.randint(int(env.action_space.n), (B,), generator=random)
        return right.where(torch.rand(B, generator=random) < 0.5, random_answer)

    episode = env.cards - 1
    assert play_with_twins(env, twins, policy, 2 * episode).tolist() == [2 * B, 0]


CARTPOLES = {
    "PositionOnlyCartPoleEasy": ["env=noisy_cartpole", "env.noise=0"],
    "PositionOnlyCartPoleMedium": ["env=noisy_cartpole", "env.noise=0", "env.max_episode_steps=400"],
    "PositionOnlyCartPoleHard": ["env=noisy_cartpole", "env.noise=0", "env.max_episode_steps=600"],
    "NoisyPositionOnlyCartPoleEasy": ["env=noisy_cartpole"],
    "NoisyPositionOnlyCartPoleMedium": ["env=noisy_cartpole", "env.noise=0.2"],
    "NoisyPositionOnlyCartPoleHard": ["env=noisy_cartpole", "env.noise=0.3"],
}


@pytest.mark.slow
@pytest.mark.thin(5)
@pytest.mark.parametrize("name", CARTPOLES)
def test_a_cart_pole_plays_as_popgym_does(name):
    env, twins = make_env(*configured(*CARTPOLES[name]), B, "training"), [getattr(popgym, name)() for _ in range(B)]
    limit = env.max_episode_steps
    for b, twin in enumerate(twins):
        twin.np_random = Fate(env, b)
    random = torch.Generator().manual_seed(0)

    def policy(t):
        """Balances until the time limit, then acts at random."""
        if t <= limit:
            return (env._state @ torch.tensor([0.1, 0.2, 3, 0.8]).double() > 0).long()
        return torch.randint(2, (B,), generator=random)

    terminated, truncated = play_with_twins(env, twins, policy, 2 * limit)
    assert truncated == B
    assert terminated > B
