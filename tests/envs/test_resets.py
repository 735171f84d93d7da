"""An own vector form begins episodes as it says; what it does otherwise is noticed, and told."""

import time
from contextlib import closing
from itertools import pairwise

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from seqrl.envs import EnvError, FaultyEnvError, GymnasiumEnv
from seqrl.runner import Runner
from tests import broken  # noqa: F401  # registers environments
from tests.parts import small_network

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:gymnasium")


# How a vector form may say which episodes ended.
SAID = {
    "": lambda ended: ended,
    "bytes": lambda ended: ended.astype(np.uint8),
    "whole": lambda ended: ended.astype(np.int64),
    "real": lambda ended: ended.astype(np.float32),
    "list": lambda ended: ended.tolist(),
    "objects": lambda ended: ended.astype(object),
    "tensor": lambda ended: torch.tensor(ended),
}
# How it may not, and what is then said.
UNSAID = {
    "two": (lambda ended: ended * 2, r"environment \d: it returned 2 for terminated"),
    "half": (lambda ended: ended * 0.5, r"environment \d: it returned 0\.5 for terminated"),
    "nan": (lambda ended: np.where(ended, np.nan, 0.0), r"environment \d: it returned nan for terminated"),
    "words": (lambda ended: np.where(ended, "yes", "no"), "environments: terminated is made of <U3"),
    "none": (lambda ended: None, r"environments: terminated has shape \(\), not \(2,\)"),
    "one": (lambda ended: ended.any(), r"environments: terminated has shape \(\), not \(2,\)"),
    "column": (lambda ended: ended[:, None], r"environments: terminated has shape \(2, 1\), not \(2,\)"),
}
TOLD = SAID | {name: told for name, (told, _) in UNSAID.items()}


class Paid(VectorEnv):
    """Episodes of three steps, paid 1, 10 and 100; shows its clock. `does` is a mode, and `says` what it declares."""

    def __init__(self, num_envs, does="NEXT_STEP", says=None, pays=(1, 10, 100), final="final_obs", told=""):
        self.num_envs, self.does, self.pays, self.final = num_envs, does, np.array([*pays, *[0] * 2000]), final
        self.says, self.told = says, TOLD[told]
        self.metadata = {} if says is None else {"autoreset_mode": says}
        self.single_observation_space, self.single_action_space = spaces.Box(0, 9, (1,)), spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.clock, self.ended = np.zeros(num_envs, int), np.zeros(num_envs, bool)

    def seen(self):
        return self.clock[:, None].astype(np.float32)

    def reset(self, *, seed=None, options=None):
        where = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        where = where if "deaf" not in self.does else np.ones_like(where)
        # On request, the second begins later, so that they end at different times.
        self.clock[where] = np.arange(self.num_envs)[where] % 2 if self.says else 0
        self.ended[where] = False
        return self.seen(), {}

    def step(self, actions):
        ghost = self.ended & (self.does == "NEXT_STEP")
        self.clock = np.where(ghost, 0, self.clock + 1)
        reward = np.where(ghost, 0, self.pays[self.clock - 1])
        ended, info = (self.clock == 3) & ~ghost, {}
        self.ended = ended
        if self.does == "SAME_STEP" and ended.any():
            info = {self.final: self.seen()} if self.final else {}
            self.clock = np.where(ended, 0, self.clock)
        return self.seen(), reward, self.told(ended), self.told(np.zeros_like(ended)), info


class Single(gymnasium.Env):
    observation_space, action_space = spaces.Box(0, 9, (1,)), spaces.Discrete(2)

    def __init__(self, **_):
        pass

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, True, False, {}


gymnasium.register("test/Paid-v0", vector_entry_point=Paid)
gymnasium.register("test/PaidOrSingle-v0", Single, vector_entry_point=Paid)


def made(id="test/Paid-v0", backend="vector", **kwargs):
    return GymnasiumEnv(id, 2, seed=0, backend=backend, kwargs=kwargs)


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP", "DISABLED"])
def test_a_reward_that_would_become_infinite_is_named(mode):
    with closing(made(does=mode, says=mode, pays=(1, 1e300))) as env:
        env.reset()
        with pytest.raises(FaultyEnvError, match=r"^environment \d: its reward is 1e\+300, which is beyond float32\."):
            [env.step(torch.zeros(2, dtype=torch.int64)) for _ in range(2)]


def ends(env):
    """Reward and number of the steps of each whole episode that began with the run's."""
    with closing(env):
        rollout = Runner(env, small_network(env), 24, 0, torch.Generator().manual_seed(0)).collect()
    told = set()
    for b in range(2):
        real = rollout.valid[:, b]
        reward, ended = rollout.reward[real, b].tolist(), rollout.ended[real, b].tolist()
        cuts = [t + 1 for t, end in enumerate(ended) if end]
        told |= {tuple(reward[a:z]) for a, z in pairwise(cuts)}
    return told


MODES = [*AutoresetMode, *(mode.name for mode in AutoresetMode), *(mode.value for mode in AutoresetMode)]


@pytest.mark.parametrize("says", MODES, ids=str)
def test_episodes_are_whole_in_every_mode_however_it_is_written(says):
    does = next(mode.name for mode in AutoresetMode if says in (mode, mode.name, mode.value))
    begins = {(1.0, 10.0, 100.0)} | ({(10.0, 100.0)} if does == "DISABLED" else set())
    assert ends(made(does=does, says=says)) == begins


@pytest.mark.parametrize(
    ("says", "does", "said"),
    [("SAME_STEP", "SAME_STEP", None), ("NEXT_STEP", "SAME_STEP", r"an end comes with info\['final_obs'\]")],
)
def test_an_info_for_each_environment_tells_as_much_as_one_for_all(says, does, said, monkeypatch):
    step = Paid.step

    def listed(self, actions):
        *answer, info = step(self, actions)
        # As Gymnasium's DictInfoToList has it.
        return *answer, [{name: them[index] for name, them in info.items()} for index in range(self.num_envs)]

    monkeypatch.setattr(Paid, "step", listed)
    if said is None:
        assert ends(made(does=does, says=says)) == {(1.0, 10.0, 100.0)}
        return
    with pytest.raises(FaultyEnvError, match=said):
        ends(made(does=does, says=says))


@pytest.mark.thin(3)
@pytest.mark.parametrize("told", SAID)
@pytest.mark.parametrize("mode", [*AutoresetMode.__members__, None])
def test_ends_count_whatever_type_says_them(mode, told):
    does = mode or "NEXT_STEP"
    assert ends(made(does=does, says=mode, told=told)) == ends(made(does=does, says=mode))


@pytest.mark.parametrize("told", UNSAID)
@pytest.mark.parametrize("mode", [*AutoresetMode.__members__, None])
def test_ends_that_are_neither_true_nor_false_are_named(mode, told):
    with pytest.raises(FaultyEnvError, match=rf"^{UNSAID[told][1]}.*Fix the environment\.$"):
        ends(made(does=mode or "NEXT_STEP", says=mode, told=told))


def test_what_declares_nothing_and_does_next_step_is_taken_for_it():
    assert ends(made()) == {(1.0, 10.0, 100.0)}


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"does": "SAME_STEP"}, r"an end comes with info\['final_obs'\]"),
        ({"does": "SAME_STEP", "final": "final_observation"}, r"an end comes with info\['final_observation'\]"),
        ({"does": "SAME_STEP", "final": ""}, "the step after an end gave a reward, 1"),
        ({"does": "SAME_STEP", "final": "", "pays": (0, 0, 1)}, "does not show what episodes begin with"),
        ({"does": "DISABLED", "pays": (0, 0, 1)}, "does not show what episodes begin with"),
    ],
    ids=str,
)
def test_what_declares_nothing_and_does_something_else_is_refused(kwargs, said):
    with pytest.raises(EnvError, match=rf"^env\.backend: the vector form of test/Paid-v0 does not declare .*{said}"):
        made(**kwargs)


def test_a_vector_form_that_takes_no_time_limit_is_refused_and_auto_passes_over_it():
    id = "broken/TakesNoLimit-v0"
    with pytest.raises(EnvError, match=r"does not take its time limit, max_episode_steps=6, .*\. Use env\.backend="):
        GymnasiumEnv(id, 2, seed=0, backend="vector")
    with closing(GymnasiumEnv(id, 2, seed=0)) as env:
        assert env.backend != "vector"
        assert "vector: it does not take its time limit" in env.backend_reason


class Lingers(Paid):
    """Takes a while for each step, and does not say when it begins episodes."""

    def step(self, actions):
        time.sleep(0.02)
        return super().step(actions)


gymnasium.register("test/Lingers-v0", vector_entry_point=Lingers)


def test_a_play_to_see_when_episodes_begin_has_the_time_limit_for_each_step():
    # Some 60 steps, which take far longer than the limit.
    GymnasiumEnv("test/Lingers-v0", 2, seed=0, backend="vector", timeout_seconds=0.4).close()


def test_auto_passes_over_a_vector_form_that_cannot_be_taken_for_next_step():
    with closing(made("test/PaidOrSingle-v0", "auto", does="SAME_STEP")) as env:
        assert env.backend == "sync"
    with closing(made("test/PaidOrSingle-v0", "auto")) as env:
        assert env.backend == "vector"


@pytest.mark.parametrize(
    ("says", "kwargs", "said"),
    [
        ("NEXT_STEP", {"does": "SAME_STEP"}, r"an end comes with info\['final_obs'\]"),
        ("NEXT_STEP", {"does": "SAME_STEP", "final": ""}, "the step after an end gave a reward, 1"),
        ("NEXT_STEP", {"does": "SAME_STEP", "final": "", "pays": (0, 5, 1)}, None),
        ("SAME_STEP", {"does": "NEXT_STEP"}, r"an episode ended without info\['final_obs'\]"),
        ("SAME_STEP", {"does": "DISABLED"}, r"an episode ended without info\['final_obs'\]"),
        ("DISABLED", {"does": "SAME_STEP"}, r"an end comes with info\['final_obs'\]"),
        ("DISABLED", {"does": "deaf"}, r"reset did not leave those alone where options\['reset_mask'\] is false"),
    ],
    ids=str,
)
def test_what_does_not_do_what_it_declares_is_named_where_it_shows(says, kwargs, said):
    env = made(says=says, **kwargs)
    if said is None:
        # Nothing but a repetition shows it: verify does.
        assert ends(env) == {(5.0, 1.0)}
        return
    with pytest.raises(FaultyEnvError, match=rf"the vector form is taken for {says}, but {said}.*Declare it"):
        ends(env)


@pytest.mark.parametrize("says", ["odd", True, 3, ["SAME_STEP"]])
def test_a_mode_that_does_not_exist_is_named(says):
    with pytest.raises(EnvError, match=r"^env\.backend: the vector form of test/Paid-v0 declares the autoreset_mode"):
        made(says=says)


def test_what_never_ends_cannot_be_taken_for_anything(monkeypatch):
    monkeypatch.setattr(Paid, "step", endless)
    with pytest.raises(EnvError, match="no episode ended within 1,000 random steps to show it"):
        made()


def test_what_raises_while_it_is_looked_at_is_refused(monkeypatch):
    monkeypatch.setattr(Paid, "step", lambda *_: {}["key"])
    with pytest.raises(EnvError, match="and played, it raised KeyError: 'key'"):
        made()


def endless(env, actions):
    never = np.zeros(2, bool)
    return np.zeros((2, 1), np.float32), np.zeros(2), never, never, {}
