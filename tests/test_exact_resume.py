"""A run that is saved and goes on elsewhere is, to the last bit, the run that was never interrupted."""

import threading

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hydra import compose, initialize_config_dir

from seqrl.config.paths import CONF
from seqrl.config.schema import CELLS
from seqrl.config.validate import faults
from seqrl.envs import GymnasiumEnv
from seqrl.envs.gym import autoreset, guard
from seqrl.envs.gym import history as restore
from seqrl.run.build import build, constructor
from seqrl.run.checkpoint import Checkpoints
from seqrl.text import masks
from tests.envs import everything

# Processes are forked from one that has run OpenMP threads; they only play.
pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning", "ignore::UserWarning:gymnasium"
)

TINY = ["network.hidden_size=8", "network.lstm_hidden_size=8", "network.window=5", "algorithm.epochs=2"]
FIXED = "rollout_length=7"


class Wander(gymnasium.Env):
    """A random walk with ends of both kinds, some after one step; everything comes from its own generator."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,))
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.normal(size=2)
        return self.seen(), {}

    def step(self, action):
        self.place = self.place + 0.3 * self.np_random.normal(size=2) + 0.1 * (int(action) - 1)
        reward = float(-np.abs(self.place).sum())
        return self.seen(), reward, bool(self.np_random.random() < 0.1), False, {}

    def seen(self):
        return self.place.astype(np.float32)


TWO, THREE, BOX = spaces.MultiBinary(2), spaces.Discrete(3, start=-1), spaces.Box(-2, 3, (2,), np.float64)
ACTIONS = {
    "choices": spaces.Dict({"a": spaces.Tuple([THREE, TWO]), "b": spaces.MultiDiscrete([[2, 3], [3, 2]])}),
    "numbers": spaces.Tuple([BOX, spaces.Box(0, 1, (2, 2))]),
    "both": spaces.Tuple([THREE, BOX]),
    "a box": BOX,
    "switches": TWO,
    "a choice": THREE,
}


class Acts(Wander):
    """The same walk with any action space."""

    def __init__(self, kind):
        self.action_space = ACTIONS[kind]

    def step(self, action):
        assert self.action_space.contains(action)
        return super().step(spaces.flatten(self.action_space, action).sum() % 3)


class Told(Wander):
    """The same, says of itself where it is, and was never told what to do."""

    def state_dict(self):
        return {"place": self.place, "random": self.np_random.bit_generator.state}

    def load_state_dict(self, state):
        self.place = state["place"]
        self.np_random.bit_generator.state = state["random"]


class Moody(Wander):
    """Does not repeat itself."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None, options=options)


class Unspeakable(Told):
    def state_dict(self):
        return {"place": self}


class Harder(Told):
    """Every episode is harder than those before it."""

    level = 0

    def reset(self, *, seed=None, options=None):
        self.level += 1
        return super().reset(seed=seed, options=options)

    def step(self, action):
        observation, reward, *end = super().step(action)
        return observation, reward - self.level, *end

    def state_dict(self):
        return {**super().state_dict(), "level": self.level}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.level = state["level"]


class Broken(Harder):
    """Can load what it has just saved, and nothing that another process has."""

    def load_state_dict(self, state):
        if state["level"] != self.level:
            raise RuntimeError("no such level")
        super().load_state_dict(state)


class Learned(Wander, torch.nn.Module):
    """A world that is a network: it saves its weights, and not where it is."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.weight = torch.nn.Parameter(torch.ones(2))


class Lists(Told):
    """Takes back what it saved only as it was: tuples and tensors."""

    def state_dict(self):
        return {**super().state_dict(), "place": (torch.from_numpy(self.place), 1)}

    def load_state_dict(self, state):
        place, _ = state["place"]
        assert isinstance(place, torch.Tensor)
        assert isinstance(state["place"], tuple)
        super().load_state_dict({**state, "place": place.numpy()})


class Drained(Wander):
    """Rewards fall with every step that it has ever played."""

    steps = 0

    def step(self, action):
        self.steps += 1
        observation, reward, *end = super().step(action)
        return observation, reward - 0.01 * self.steps, *end


class Halved(Wander):
    """Writes into its action, and shows where that leads."""

    action_space = spaces.Box(-1.0, 1.0, (2,))

    def step(self, action):
        action *= 0.5
        self.place = self.place + action
        return self.seen(), float(action.sum()), False, False, {}


class Sticky(gymnasium.Wrapper):
    """Shows what was there a step ago: a wrapper of the user's own, which nobody saves."""

    def reset(self, **arguments):
        self.before, info = self.env.reset(**arguments)
        return self.before, info

    def step(self, action):
        before = self.before
        self.before, *others = self.env.step(action)
        return before, *others


class Centred(gymnasium.Wrapper):
    """Saves its own statistics, and nothing of what lies beneath."""

    sum, count = 0.0, 0

    def reset(self, **arguments):
        self.sum, self.count = 0.0, 0
        observation, info = self.env.reset(**arguments)
        return self.centred(observation), info

    def step(self, action):
        observation, *others = self.env.step(action)
        return self.centred(observation), *others

    def centred(self, observation):
        self.sum, self.count = self.sum + float(observation[0]), self.count + 1
        return observation - np.float32(self.sum / self.count)

    def state_dict(self):
        return {"sum": self.sum, "count": self.count}

    def load_state_dict(self, state):
        self.sum, self.count = state["sum"], state["count"]


def stacked(cls):
    return lambda: gymnasium.wrappers.FlattenObservation(gymnasium.wrappers.FrameStackObservation(cls(), 3))


for cls in (Wander, Acts, Told, Moody, Unspeakable, Harder, Broken, Learned, Lists, Drained, Halved):
    gymnasium.register(f"test/{cls.__name__}-v0", cls, max_episode_steps=12, disable_env_checker=True)
for name, entry_point in {
    "Stacked": stacked(Told),
    "Sticky": lambda: Sticky(Told()),
    "Centred": lambda: Centred(Told()),
    "CentredWander": lambda: Centred(Wander()),
    "Delayed": lambda: gymnasium.wrappers.DelayObservation(Told(), 2),
    "Repeating": lambda: gymnasium.wrappers.StickyAction(Told(), 0.5),
    "Clipped": lambda: gymnasium.wrappers.ClipReward(Told(), -1.0, 1.0),
}.items():
    gymnasium.register(f"test/{name}-v0", entry_point, max_episode_steps=12, disable_env_checker=True)


def begun(*overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("config", ["parallel=3", "episodes=1000", *TINY, *overrides])
    assert faults(cfg) == []
    return build(cfg, constructor(cfg.device)())


def through_a_file(run, folder):
    folder.mkdir(exist_ok=True)
    checkpoints = Checkpoints(folder)
    checkpoints.save(run.state_dict(), run.iterations)
    return checkpoints.newest()[0]


def numbers(row):
    return {name: number for name, number in row.items() if name.startswith(("train/", "rollout/"))}


def interrupted_and_whole(tmp_path, *overrides):
    """The same run twice, once interrupted after two of four iterations; how many episodes were lost; all rows."""
    whole, first = begun(*overrides), begun(*overrides)
    rows = [numbers(whole.iterate()) for _ in range(4)]
    for _ in range(2):
        first.iterate()
    state = through_a_file(first, tmp_path)
    first.runner.env.close()
    resumed = begun(*overrides)
    lost = resumed.load_state_dict(state)
    rows_resumed = [numbers(resumed.iterate()) for _ in range(2)]
    for run in (whole, resumed):
        run.runner.env.close()
    return resumed, whole, lost, rows_resumed, rows[2:]


def assert_same(tmp_path, *overrides):
    resumed, whole, lost, rows, expected = interrupted_and_whole(tmp_path, *overrides)
    assert lost == 0
    assert rows == expected
    assert resumed.budget == whole.budget
    for name, tensor in whole.algorithm.network.state_dict().items():
        assert torch.equal(tensor, resumed.algorithm.network.state_dict()[name]), name


@pytest.mark.thin(22)
@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize("rollouts", ["rollout_length=0", FIXED])
@pytest.mark.parametrize("bptt_length", [8, 0])
@pytest.mark.parametrize("network", ["lstm", "attention"])
@pytest.mark.parametrize("algorithm", ["ppo", "reinforce"])
def test_a_run_goes_on_bit_for_bit(tmp_path, algorithm, network, bptt_length, rollouts, backend):
    env = ["env.id=test/Wander-v0", "env=gymnasium", f"env.backend={backend}"]
    learning = [f"algorithm={algorithm}", f"network={network}", f"sequence_learning.bptt_length={bptt_length}"]
    assert_same(tmp_path, *env, *learning, rollouts)


@pytest.mark.parametrize("stale_state", ["keep", "refresh", "burn_in", "zero"])
@pytest.mark.parametrize("rollouts", ["rollout_length=0", FIXED])
@pytest.mark.parametrize("algorithm", ["ppo", "reinforce"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", [it for it in CELLS if it != "lstm"])
@pytest.mark.slow
def test_every_cell_goes_on_bit_for_bit(tmp_path, cell, layers, algorithm, rollouts, stale_state):
    learning = [f"algorithm={algorithm}", f"network={cell}", f"network.layers={layers}", "network.use_attention=true"]
    memory = [f"sequence_learning.stale_state={stale_state}", "sequence_learning.bptt_length=4"]
    memory += ["sequence_learning.burn_in=3", "algorithm.memory_learning_rate=1e-4"]
    assert_same(tmp_path, "env=gymnasium", "env.id=test/Wander-v0", *learning, *memory, rollouts)


def test_a_stack_of_another_cell_goes_on_bit_for_bit(tmp_path):
    cell = ["network=mingru", "network.layers=2", "sequence_learning.stale_state=refresh"]
    assert_same(tmp_path, "env=tmaze", *cell, "sequence_learning.bptt_length=4", FIXED)


@pytest.mark.thin(2)
@pytest.mark.parametrize("rollouts", ["rollout_length=0", FIXED])
def test_one_process_and_a_process_each_make_the_same_run(rollouts):
    rows = []
    for backend in ("sync", "async"):
        run = begun("env=gymnasium", "env.id=test/Wander-v0", f"env.backend={backend}", rollouts)
        rows.append([numbers(run.iterate()) for _ in range(3)])
        run.runner.env.close()
    assert rows[0] == rows[1]


@pytest.mark.thin(12)
@pytest.mark.parametrize("rollouts", ["rollout_length=0", FIXED])
@pytest.mark.parametrize("env", ["masked_cartpole", "noisy_cartpole", "tmaze", "memory_chain", "repeat_previous"])
def test_built_in_environments_go_on(tmp_path, env, rollouts):
    assert_same(tmp_path, f"env={env}", rollouts)


@pytest.mark.thin(6)
@pytest.mark.parametrize("kind", ACTIONS)
@pytest.mark.parametrize("rollouts", [FIXED, "rollout_length=0"])
def test_every_kind_of_action_goes_on(tmp_path, kind, rollouts):
    assert_same(tmp_path, "env=gymnasium", "env.id=test/Acts-v0", f"+env.kwargs.kind={kind}", rollouts)


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("backend", ["sync", "async"])
def test_every_kind_of_space_goes_on_with_inputs_and_normalised(tmp_path, backend):
    env = ["env=gymnasium", f"env.id={everything.ID}", "env.hidden=[mission]", f"env.backend={backend}"]
    network = ["network.inputs=[previous_action,previous_reward,first]", "network.normalize_observations=true"]
    assert_same(tmp_path, *env, *network, FIXED)


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("env", ["masked_cartpole", "env.id=test/Wander-v0"])
def test_inputs_go_on_with_tensor_programs_and_others(tmp_path, env):
    which = [f"env={env}"] if "=" not in env else ["env=gymnasium", env]
    assert_same(tmp_path, *which, "network.inputs=[previous_action,previous_reward,first]", FIXED)


@pytest.mark.thin(2)
@pytest.mark.parametrize("backend", ["sync", "async"])
def test_an_environment_that_says_where_it_is_plays_nothing_again(tmp_path, backend, monkeypatch):
    monkeypatch.setattr(restore.History, "episodes", None)
    assert_same(tmp_path, "env=gymnasium", "env.id=test/Told-v0", f"env.backend={backend}", FIXED)


AROUND = ["Stacked", "Sticky", "Delayed", "Repeating", "Clipped", "Halved", "Centred", "CentredWander"]


@pytest.mark.slow
@pytest.mark.thin(20)
@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize("name", [*AROUND, "Learned", "Lists"])
def test_what_lies_around_an_environment_goes_on_too(tmp_path, name, backend):
    assert_same(tmp_path, "env=gymnasium", f"env.id=test/{name}-v0", f"env.backend={backend}", FIXED)


ITSELF = {"Told": True, "Clipped": True, "Lists": True, "Harder": True}
REPLAYED = dict.fromkeys(["Stacked", "Sticky", "Centred", "CentredWander", "Learned", "Unspeakable"], False)


@pytest.mark.parametrize(("name", "itself"), [*ITSELF.items(), *REPLAYED.items()])
def test_an_environment_restores_itself_only_if_nothing_in_it_or_around_it_is_lost(name, itself):
    env = GymnasiumEnv(f"test/{name}-v0", 2, seed=0, backend="sync")
    env.reset()
    assert env._episodes._restore_themselves == itself


@pytest.mark.thin(6)
@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize("rollouts", ["rollout_length=0", FIXED])
def test_what_an_environment_knows_of_earlier_episodes_goes_on_if_it_saves_it(tmp_path, rollouts, backend):
    assert_same(tmp_path, "env=gymnasium", "env.id=test/Harder-v0", f"env.backend={backend}", rollouts)


@pytest.mark.slow
@pytest.mark.thin(6)
@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize(("rollouts", "lost"), [("rollout_length=0", 0), (FIXED, 3)])
def test_an_environment_that_cannot_load_what_it_saved_begins_anew_and_the_run_knows(tmp_path, rollouts, lost, backend):
    broken = ["env=gymnasium", "env.id=test/Broken-v0", f"env.backend={backend}", rollouts]
    resumed, _, lost_now, rows, expected = interrupted_and_whole(tmp_path, *broken, "network.inputs=[previous_reward]")
    assert any("could not restore their own state" in note for note in resumed.runner.env.notes)
    assert lost_now == lost
    assert rows != expected


@pytest.mark.slow
def test_a_replay_may_take_longer_than_one_answer_may(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "REPLAY_SECONDS", 0.0)
    assert_same(tmp_path, "env=gymnasium", "env.id=test/Wander-v0", "env.backend=sync", FIXED)
    monkeypatch.undo()
    monkeypatch.setattr(autoreset, "REPLAYED_AT_ONCE", 2)
    assert_same(tmp_path / "again", "env=gymnasium", "env.id=test/Wander-v0", "env.backend=sync", FIXED)


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("backend", ["sync", "async"])
def test_an_episode_that_is_rewarded_otherwise_than_before_cannot_go_on(tmp_path, backend):
    drained = ["env=gymnasium", "env.id=test/Drained-v0", FIXED, f"env.backend={backend}"]
    # All but those that are in their first episode.
    assert interrupted_and_whole(tmp_path, *drained)[2] > 0


@pytest.mark.thin(4)
@pytest.mark.parametrize("rollouts", ["rollout_length=0", FIXED])
@pytest.mark.parametrize("algorithm", ["ppo", "reinforce"])
def test_the_scale_of_rewards_goes_on(tmp_path, algorithm, rollouts):
    env = ["env=gymnasium", "env.id=test/Wander-v0"]
    assert_same(tmp_path, *env, f"algorithm={algorithm}", "algorithm.normalize_reward=true", rollouts)


@pytest.mark.slow
def test_a_state_that_is_loaded_is_left_as_it_was(tmp_path):
    run = begun("env=gymnasium", "env.id=test/Wander-v0", FIXED)
    run.iterate()
    state = through_a_file(run, tmp_path)
    rows = []
    for _ in range(2):
        resumed = begun("env=gymnasium", "env.id=test/Wander-v0", FIXED)
        assert resumed.load_state_dict(state) == 0
        rows.append([numbers(resumed.iterate()) for _ in range(2)])
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_whole_episodes_of_an_own_vector_form_go_on(tmp_path):
    assert_same(tmp_path, "env=gymnasium", "env.id=CartPole-v1", "env.backend=vector")


@pytest.mark.slow
def test_episodes_that_cannot_go_on_are_counted_and_others_begin_in_their_place(tmp_path):
    own_form = ["env=gymnasium", "env.id=CartPole-v1", "env.backend=vector", FIXED]
    assert interrupted_and_whole(tmp_path / "own", *own_form)[2] == 3
    moody = ["env=gymnasium", "env.id=test/Moody-v0", FIXED]
    resumed, *_, lost, rows, expected = interrupted_and_whole(tmp_path / "moody", *moody)
    assert lost == 3
    assert rows != expected
    assert resumed.iterations == 4


@pytest.mark.slow
def test_an_episode_longer_than_is_remembered_begins_anew_and_its_return_with_it(tmp_path, monkeypatch):
    # Actions of 12 steps of eight environments; of those, half are forgotten at once.
    monkeypatch.setattr(restore, "REMEMBERED_BYTES", 12 * 8 * 8)
    overrides = ["env=gymnasium", "env.id=CartPole-v1", "env.backend=sync", "rollout_length=30", "parallel=8"]
    run = begun(*overrides)
    run.iterate()
    state = through_a_file(run, tmp_path)
    age = state["runner"]["episodes"]["age"]
    resumed = begun(*overrides)
    lost = resumed.load_state_dict(state)
    kept = resumed.runner._unfinished.age > 0
    assert 0 < lost < 8
    assert lost == int((~kept & (age > 0)).sum())
    assert kept[(age > 0) & (age <= 6)].all()
    assert not kept[age > 12].any()
    assert (resumed.runner._unfinished.age == age.where(kept, 0)).all()
    row = resumed.iterate()
    # Rewards are 1 a step: a return that was carried over would be longer than its episode.
    assert row["train/skipped"] == 0
    returns, lengths = zip(*resumed.episodes.recent, strict=True)
    assert returns == lengths


@pytest.mark.slow
def test_episodes_in_progress_are_lost_where_whole_ones_follow_and_their_returns_with_them(tmp_path):
    endless = ["env=gymnasium", "env.id=test/Halved-v0"]
    run = begun(*endless, FIXED)
    run.iterate()
    resumed = begun(*endless, "rollout_length=0")
    assert resumed.load_state_dict(through_a_file(run, tmp_path)) == 3
    resumed.iterate()
    # All of them end by the limit.
    assert {length for _, length in resumed.episodes.recent} == {12}


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("backend", ["sync", "async"])
def test_an_environment_whose_state_is_no_plain_data_is_replayed_and_the_log_says_why(tmp_path, backend, caplog):
    assert_same(tmp_path, "env=gymnasium", "env.id=test/Unspeakable-v0", f"env.backend={backend}", FIXED)
    if backend == "sync":
        assert "its state_dict raised TypeError: Unspeakable is not plain data. Fix" in caplog.text


class Keeps(Told):
    """Its state is all that it has, and so what it was given."""

    def __init__(self, key):
        super().__init__()
        self.key = key

    def state_dict(self):
        return {**super().state_dict(), "given": [self.key, f"Bearer {self.key}".encode()]}


gymnasium.register("test/Keeps-v0", Keeps, max_episode_steps=12, disable_env_checker=True)


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("backend", ["sync", "async"])
def test_a_state_that_holds_a_value_of_the_systems_environment_is_replayed_and_not_saved(
    tmp_path, backend, caplog, monkeypatch
):
    for name in ("_FROM_ENVIRONMENT", "_OPEN", "_SECRET", "_PATHS"):
        monkeypatch.setattr(masks, name, type(getattr(masks, name))())
    monkeypatch.setenv("MY_KEY", "hush-hush-hush")
    keeps = ["env=gymnasium", "env.id=test/Keeps-v0", "+env.kwargs.key='${oc.env:MY_KEY}'", f"env.backend={backend}"]
    assert_same(tmp_path, *keeps, FIXED)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(b"hush" in path.read_bytes() for path in files)
    if backend == "sync":
        said = "what the configuration took from the system's environment, ${oc.env:MY_KEY}, is not saved"
        assert said in caplog.text


class Lapses(Told):
    """Can say where it is until its state is asked for the third time."""

    asked = 0

    def state_dict(self):
        self.asked += 1
        return {**super().state_dict(), **({"lock": threading.Lock()} if self.asked > 2 else {})}


gymnasium.register("test/Lapses-v0", Lapses, max_episode_steps=12, disable_env_checker=True)


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("backend", ["sync", "async"])
def test_an_environment_whose_state_can_no_longer_be_saved_begins_anew_on_resume_and_it_is_said_once(
    tmp_path, backend, caplog
):
    overrides = ["env=gymnasium", "env.id=test/Lapses-v0", f"env.backend={backend}", FIXED]
    run = begun(*overrides)
    # It was asked once whether it can be restored at all.
    for _ in range(3):
        run.iterate()
        state = through_a_file(run, tmp_path)
    run.runner.env.close()
    said = [note for note in run.runner.env.notes if "state_dict of an environment failed" in note]
    assert len(said) == 1
    if backend == "sync":
        assert caplog.text.count("its state_dict raised TypeError: lock is not plain data") == 3
    resumed = begun(*overrides)
    assert resumed.load_state_dict(state) == 3
    assert resumed.iterate()
    resumed.runner.env.close()
