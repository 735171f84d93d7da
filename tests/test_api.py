"""seqrl from Python: the same runs as the command, and policies that take what the environment shows."""

import importlib
import inspect
import json
import logging
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector.utils import concatenate, create_empty_array
from hydra import compose as compose_with_hydra
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

import seqrl
from seqrl import seeds
from seqrl.api import learning, playing
from seqrl.config import begun
from seqrl.config.begun import named_run
from seqrl.config.paths import CONF
from seqrl.config.program import masked_warnings
from seqrl.devices import device
from seqrl.envs import GymnasiumEnv, RepeatPrevious
from seqrl.envs.gym.autoreset import episode_seed
from seqrl.errors import ActionNotFiniteError, CheckpointError, RaisedError, StoppedError
from seqrl.networks import Network
from seqrl.run import manifest
from seqrl.run import policy as saved
from seqrl.run.build import make_device, make_evaluator
from seqrl.text import masks
from tests.envs import everything
from tests.parts import small_network
from tests.programs import run_program

SMALL = (
    "parallel=4", "episodes=2", "env.backend=sync", "network.hidden_size=8", "network.lstm_hidden_size=8",
    "evaluation.episodes=8", "device.threads=1", "seed=5",
)  # fmt: skip
# The same for a task of seqrl's own.
SMALL_TASK = tuple(word for word in SMALL if "backend" not in word)
# What a policy may have to read and to do.
WORLDS = {
    "numbers left out": ("env.id=CartPole-v1", "env.hidden=[1,3]"),
    "a bounded number": ("env.id=Pendulum-v1", "+env.kwargs.max_episode_steps=30"),
    "one of many": ("env.id=FrozenLake-v1", "+env.kwargs.max_episode_steps=20"),
    "a tuple": ("env.id=Blackjack-v1",),
    "normalised": ("env.id=CartPole-v1", "network.normalize_observations=true"),
    "what went before": ("env.id=CartPole-v1", "network.inputs=[previous_action,previous_reward,first]"),
    "everything at once": (f"env.id={everything.ID}", "env.hidden=[mission]"),
    "everything, and what went before": (
        f"env.id={everything.ID}", "env.hidden=[mission]", "network.inputs=[previous_action,previous_reward]",
    ),
    "a mask in info": ("env.id=test/MaskInInfo-v0", "env.action_mask=info"),
    "no memory": ("env.id=CartPole-v1", "network=mlp"),
    "attention": ("env.id=CartPole-v1", "network=attention", "network.heads=2"),
    "wrappers": (
        "env.id=CartPole-v1", "env.wrappers=[{_target_:gymnasium.wrappers.FrameStackObservation,stack_size:3}]",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def of_all(tmp_path_factory):
    """A run of the T-maze and one of CartPole, which several tests begin with."""
    folder, words = tmp_path_factory.mktemp("of_all"), {"tmaze": (*SMALL_TASK, "env=tmaze")}
    for task, given in {**words, "cartpole": (*SMALL, "env.id=CartPole-v1")}.items():
        seqrl.learn(*given, f"hydra.run.dir={folder / task}", quiet=True)
    return folder


@pytest.fixture
def tmaze(of_all, tmp_path):
    """A copy of the one, to do with as one likes."""
    return shutil.copytree(of_all / "tmaze", tmp_path / "outputs" / "runs" / "2026-01-01" / "tmaze")


@pytest.fixture
def cartpole(of_all, tmp_path):
    """A copy of the other."""
    return shutil.copytree(of_all / "cartpole", tmp_path / "outputs" / "runs" / "2026-01-01" / "cartpole")


QUICK = ("a bounded number", "everything, and what went before", "a mask in info", "wrappers")


@pytest.mark.thin(4)
@pytest.mark.parametrize("world", [pytest.param(it, marks=() if it in QUICK else pytest.mark.slow) for it in WORLDS])
def test_episodes_played_with_a_policy_are_those_of_the_evaluation_to_the_last_bit(world):
    run = seqrl.learn(*SMALL, *WORLDS[world], quiet=True).folder
    cfg = saved.configuration(run)
    device = make_device(cfg)
    network = saved.network(cfg, device, saved.checkpoint(run, "last")[0])
    evaluator = make_evaluator(cfg, device)
    expected, lengths = evaluator.play(network)["greedy"]
    evaluator.close()
    returns, steps = played(seqrl.load(run), cfg)
    assert steps == lengths.tolist()
    assert returns == expected.tolist()


@pytest.mark.slow
@pytest.mark.thin(3)
@pytest.mark.parametrize("task", ["tmaze", "cartpole", "a tuple"])
def test_a_policy_may_be_handed_to_another_process(of_all, task):
    folder = of_all / task
    if not folder.exists():
        folder = seqrl.learn(*SMALL, *WORLDS[task], quiet=True).folder
    policy = seqrl.load(folder)
    arrived = pickle.loads(pickle.dumps(policy))
    policy.observation_space.seed(0)
    one, other = policy.initial_state(), arrived.initial_state()
    for _ in range(3):
        observation = policy.observation_space.sample()
        (expected, one), (action, other) = policy(observation, one), arrived(observation, other)
        assert repr(action) == repr(expected)
        assert arrived.value(observation, other) == policy.value(observation, one)


def played(policy, cfg):
    """Return and length of two episodes of each of four environments, side by side, as the evaluation plays them."""
    wrap = [gymnasium.wrappers.FrameStackObservation] if cfg.env.wrappers else []
    envs = [gymnasium.make(cfg.env.id, **cfg.env.kwargs, disable_env_checker=True) for _ in range(4)]
    envs = [wrap[0](env, stack_size=3) if wrap else env for env in envs]
    seed = seeds.stream(cfg.seed, "evaluation")
    returns, steps = [], []
    for number in range(2):
        shown = [env.reset(seed=episode_seed(seed, index, number)) for index, env in enumerate(envs)]
        state, alive, rewards = policy.initial_state(4), [0, 1, 2, 3], [[], [], [], []]
        while alive:
            empty = create_empty_array(policy.observation_space, len(alive))
            batch = concatenate(policy.observation_space, [shown[it][0] for it in alive], empty)
            mask = [shown[it][1]["action_mask"] for it in alive] if policy.mask_in_info else None
            reward = [rewards[it][-1] if rewards[it] else 0.0 for it in alive] if policy.wants_reward else None
            actions, state = policy(batch, state, mask=mask, reward=reward)
            going = []
            for row, it in enumerate(alive):
                observation, reward, terminated, truncated, info = envs[it].step(of_row(actions, row))
                shown[it] = (observation, info)
                rewards[it].append(float(reward))
                going.append(not (terminated or truncated))
            alive, state = [it for it, goes in zip(alive, going, strict=True) if goes], state[torch.tensor(going)]
        longest = max(map(len, rewards))
        table = torch.tensor([[*of_one, *[0.0] * (longest - len(of_one))] for of_one in rewards]).T.contiguous()
        returns += table.double().sum(0).tolist()
        steps += [float(len(of_one)) for of_one in rewards]
    return returns, steps


def of_row(batch, row):
    if isinstance(batch, dict):
        return {name: of_row(part, row) for name, part in batch.items()}
    return batch[row]


def test_one_environment_is_played_without_a_batch_axis_and_a_state_begins_anew():
    policy = seqrl.load(seqrl.learn(*SMALL, *WORLDS["a bounded number"], quiet=True).folder)
    env = gymnasium.make("Pendulum-v1")
    observation, _ = env.reset(seed=0)
    beginning = policy.initial_state()
    action, state = policy(observation, beginning)
    assert env.action_space.contains(action)
    assert isinstance(policy.value(observation, state), float)
    later, _ = policy(observation, state)
    assert not np.array_equal(later, action)
    again, _ = policy(observation, policy.reset(state))
    assert np.array_equal(again, action)
    as_tensor, _ = policy(torch.as_tensor(observation), beginning)
    assert torch.equal(as_tensor, torch.as_tensor(action))


@pytest.mark.slow
def test_some_of_many_begin_anew_and_the_others_remember():
    policy = seqrl.load(seqrl.learn(*SMALL, *WORLDS["what went before"], quiet=True).folder)
    batch = np.zeros((3, 4), np.float32)
    _, state = policy(batch, policy.initial_state(3), reward=[0.0, 0.0, 0.0])
    state = policy.reset(state, [True, False, False])
    fresh = policy.initial_state(3)
    for name, leaf in state.memory.items():
        assert torch.equal(leaf[0], fresh.memory[name][0])
        assert not torch.equal(leaf[1], fresh.memory[name][1])
    assert state.previous["first"].flatten().tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match="also sees the reward of the step before"):
        policy(batch, state)
    for reward in ([1.0], [1.0, 2.0], [0.0, np.nan, 0.0]):
        with pytest.raises(ValueError, match=r"^reward: must be a finite number for each row of 3"):
            policy(batch, state, reward=reward)
    # Indices are no mask: [1] would clear all rows, and [0] none.
    for where in ([1], [0], [0, 2], np.array([2]), 1, [1.0, 0.0, 0.0], [True, False]):
        with pytest.raises(ValueError, match=r"^where: must be a mask, true or false for each row of 3"):
            policy.reset(state, where)
    with pytest.raises(ValueError, match=r"^batch_size: there must be an environment"):
        policy.initial_state(0)


@pytest.mark.slow
def test_there_is_a_mask_for_each_row():
    policy = seqrl.load(seqrl.learn(*SMALL, *WORLDS["a mask in info"], quiet=True).folder)
    batch = np.stack([policy.observation_space.sample() for _ in range(4)])
    mask = np.ones((2, int(policy.action_space.nvec.sum())), np.int8)
    with pytest.raises(ValueError, match=r"^observation: has 2 masks for a state of 4"):
        policy(batch, policy.initial_state(4), mask=mask)


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("observation", "said"),
    [
        (np.zeros(3), "has shape (3,), not (4,)"),
        ({"a": 1}, "has shape (), not (4,)"),
        (np.zeros((2, 4)), "has shape (2, 4), not (4,)"),
        (["a", "b", "c", "d"], "is made of <U1, not of numbers"),
        (np.array([0, np.nan, 0, 0]), "is nan somewhere"),
        ([0, 0, -np.inf, 0], "is -inf somewhere"),
    ],
)
def test_an_observation_of_another_shape_is_refused_in_one_line(cartpole, observation, said):
    policy = seqrl.load(cartpole)
    with pytest.raises(ValueError, match="Give what reset and step return") as refused:
        policy(observation, policy.initial_state())
    assert str(refused.value).startswith(f"observation: {said}.")


@pytest.mark.parametrize("observation", [2.7, 99, -1, "2"])
def test_an_observation_that_a_built_in_task_never_shows_is_refused(observation):
    task = RepeatPrevious(1, seed=0)
    policy = seqrl.Policy(small_network(task), task.codec(), torch.Generator())
    assert policy(np.int64(3), policy.initial_state())[0] in range(4)
    with pytest.raises(ValueError, match=r"^observation: .*Give what reset and step return"):
        policy(observation, policy.initial_state())


def test_learn_leaves_the_folder_that_the_command_leaves(tmp_path):
    words = (*SMALL_TASK, "env=tmaze", "env.corridor_length=3")
    by_python = seqrl.learn(*words, quiet=True).folder
    run_program(tmp_path, "-m", "seqrl.train", *words, f"hydra.run.dir={tmp_path / 'command'}")
    by_command = tmp_path / "command"
    # TensorBoard's file is called after its time and process.
    ours, theirs = ({it.name.split("tfevents")[0] for it in folder.iterdir()} for folder in (by_python, by_command))
    assert ours == theirs
    assert (by_python / "config.yaml").read_bytes() == (by_command / "config.yaml").read_bytes()
    one, other = (saved.checkpoint(folder, "last")[0]["algorithm"]["network"] for folder in (by_python, by_command))
    assert all(torch.equal(one[name], other[name]) for name in one)
    facts = json.loads((by_python / "manifest.json").read_text())
    assert facts["overrides"] == list(words)


@pytest.mark.slow
def test_a_configuration_may_be_changed_before_it_is_learned():
    cfg = seqrl.compose(*SMALL, "env.id=CartPole-v1")
    cfg.seed = 6
    result = seqrl.learn(cfg, quiet=True)
    assert OmegaConf.load(result.folder / "config.yaml").seed == 6
    assert result.folder.name.endswith("_CartPole-v1_ppo_lstm_s6")
    assert [row["env_steps"] for row in result.metrics]
    again = seqrl.learn(f"resume={result.folder}", "episodes=3", quiet=True)
    assert again.folder == result.folder
    assert again.facts["status"] == "finished"


def test_every_fault_of_a_configuration_is_in_the_error():
    with pytest.raises(seqrl.ConfigError) as refused:
        seqrl.compose("parallel=0", "algorithm.gamma=3")
    assert len(refused.value.faults) == 2
    cfg = seqrl.compose()
    cfg.parallel = 0
    with pytest.raises(seqrl.ConfigError, match="parallel: must be"):
        seqrl.learn(cfg)


def test_a_refused_run_leaves_nothing(tmp_path):
    with pytest.raises(seqrl.SeqrlError, match="no environment is registered"):
        seqrl.learn(*SMALL, "env.id=Nowhere-v0", quiet=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("run", [None, 3, [], ["a"], "", b"run", {}])
def test_what_names_no_run_is_said_to_be_none(run):
    with pytest.raises(seqrl.ConfigError, match=r"^run: must be the folder of a run, such as .* \(got "):
        seqrl.load(run)


def test_what_is_not_trusted_is_not_loaded(cartpole, tmp_path):
    config = cartpole / "config.yaml"
    config.write_text(config.read_text().replace("id: CartPole-v1", "id: stranger:CartPole-v1"))
    with pytest.raises(seqrl.ConfigError, match=r"add trust=\[stranger\]"):
        seqrl.load(cartpole)


def test_whoever_watches_a_run_may_end_it_and_sees_its_policy():
    watched = []

    def watch(row, policy):
        observation = np.zeros(4, np.float32)
        watched.append((row["rollout/return_mean"], policy(observation, policy.initial_state())[0]))
        return len(watched) < 3

    result = seqrl.learn(*SMALL, "env.id=CartPole-v1", "episodes=50", on_iteration=watch, quiet=True)
    assert len(watched) == 3
    assert result.facts["status"] == "finished"
    final = seqrl.load(result.folder)
    assert watched[-1][1] == final(np.zeros(4, np.float32), final.initial_state())[0]


@pytest.mark.thin(4)
@pytest.mark.parametrize("answer", [False, np.bool_(False), np.array(False), torch.tensor(False)])
def test_a_comparison_with_numbers_of_numpy_or_torch_ends_the_training_too(answer):
    result = seqrl.learn(*SMALL_TASK, "env=tmaze", "episodes=9", on_iteration=lambda *_: answer, quiet=True)
    assert sum("train/policy_loss" in row for row in result.metrics) == 1


@pytest.mark.slow
@pytest.mark.thin(6)
@pytest.mark.parametrize("answer", [None, True, 0, [], np.zeros(2)])
def test_what_is_no_answer_ends_no_training(answer):
    result = seqrl.learn(*SMALL_TASK, "env=tmaze", "episodes=2", on_iteration=lambda *_: answer, quiet=True)
    assert sum("train/policy_loss" in row for row in result.metrics) == 2


def test_a_program_without_arguments_of_its_own_composes(monkeypatch):
    """As one that embeds Python."""
    monkeypatch.setattr(sys, "argv", [])
    assert seqrl.compose("env=tmaze").env.corridor_length


def test_a_working_folder_that_hydra_would_compute_is_refused(tmp_path, monkeypatch):
    """Its name may come from anybody's archive, and the value of a variable would be printed."""
    folder = tmp_path / "k${oc.env:HOME}"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(
        seqrl.ConfigError, match=r"^working folder: Hydra would compute .* \(got .*/k\$\{oc\.env:HOME\}\)"
    ):
        seqrl.compose("env=tmaze")


def test_watching_changes_no_bit():
    words = (*SMALL, "env.id=CartPole-v1", "network.normalize_observations=true")

    def watch(row, policy):
        policy(np.ones(4, np.float32), policy.initial_state(), deterministic=False)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)

    folders = [seqrl.learn(*words, quiet=True).folder, seqrl.learn(*words, on_iteration=watch, quiet=True).folder]
    one, other = (saved.checkpoint(folder, "last")[0]["algorithm"]["network"] for folder in folders)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_what_a_program_has_set_in_torch_changes_no_bit_and_is_there_afterwards():
    words = (*SMALL, "env.id=CartPole-v1")
    usual = seqrl.learn(*words, quiet=True).folder
    threads = torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(2)
    torch.backends.mkldnn.enabled = False
    own_hook = torch.nn.modules.module.register_module_forward_hook(lambda module, inputs, output: output + 1)
    try:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"):
            odd = seqrl.learn(*words, quiet=True).folder
            assert torch.is_inference_mode_enabled()
            assert torch.is_autocast_enabled("cpu")
            assert torch.get_default_device().type == "meta"
        assert (torch.get_default_dtype(), torch.get_num_threads()) == (torch.float64, 2)
        assert not torch.backends.mkldnn.enabled
        assert own_hook.id in own_hook.hooks_dict_ref()
    finally:
        own_hook.remove()
        torch.backends.mkldnn.enabled = True
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)
    one, other = (saved.checkpoint(folder, "last")[0]["algorithm"]["network"] for folder in (usual, odd))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "error",
    [
        seqrl.ConfigError(["seed: wrong.", "parallel: wrong."]),
        StoppedError("stopped.", 143),
        ActionNotFiniteError("here", float("nan"), {"a": 1}),
        CheckpointError("none."),
    ],
    ids=lambda it: type(it).__name__,
)
def test_an_error_arrives_whole_from_a_process_of_a_pool(error):
    arrived = pickle.loads(pickle.dumps(error))
    assert (type(arrived), str(arrived), vars(arrived)) == (type(error), str(error), vars(error))
    assert arrived.exit_code == error.exit_code


def test_an_error_arrives_with_the_traceback_of_an_environments_own():
    told = RaisedError("ValueError: on fire", "on fire", "line 18")
    error = seqrl.SeqrlError("environment 0: it raised ValueError: on fire")
    error.__cause__ = told
    cause = pickle.loads(pickle.dumps(error)).__cause__
    assert (type(cause), str(cause), cause.words) == (RaisedError, "line 18", "ValueError: on fire")


@pytest.mark.slow
def test_warnings_are_masked_while_a_run_goes_on(monkeypatch):
    monkeypatch.setattr(masks, "_FROM_ENVIRONMENT", {"hush-hush": "MY_KEY"})
    shown = []

    def before(message, *more):
        return str(message)

    # Programs, which other tests begin here, set theirs for good.
    monkeypatch.setattr(warnings, "formatwarning", before)

    def watch(row, policy):
        shown.append(warnings.formatwarning("a weak hush-hush", UserWarning, "x.py", 1))

    seqrl.learn(*SMALL_TASK, "env=tmaze", on_iteration=watch, quiet=True)
    assert set(shown) == {"a weak ${oc.env:MY_KEY}"}
    assert warnings.formatwarning is before


@pytest.mark.slow
def test_what_a_watcher_raises_arrives_and_the_run_can_go_on():
    def watch(row, policy):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        seqrl.learn(*SMALL, "env.id=CartPole-v1", on_iteration=watch, quiet=True)
    (run,) = seqrl.runs()
    assert run.status == "failed"
    assert seqrl.learn(f"resume={run.folder}", quiet=True).facts["status"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_a_network_that_ends_the_program_fails_its_run(monkeypatch, training):
    step = Network.step

    def ends(network, *given):
        # In the final evaluation it no longer trains.
        if network.training == training:
            sys.exit(0)
        return step(network, *given)

    monkeypatch.setattr(Network, "step", ends)
    with pytest.raises(RuntimeError, match=r"^a part of the run raised SystemExit\(0\)$"):
        seqrl.learn(*SMALL_TASK, "env=tmaze", "evaluation.episodes=1", quiet=True)
    assert [run.status for run in seqrl.runs()] == ["failed"]


def test_a_run_within_a_run_writes_into_a_log_of_its_own():
    inner = []

    def once(row, policy):
        if not inner:
            inner.append(seqrl.learn(*SMALL_TASK, "env=tmaze", "seed=77", "episodes=1", quiet=True).folder)
        return len(inner) < 2

    outer = seqrl.learn(*SMALL_TASK, "env=tmaze", "episodes=3", on_iteration=once, quiet=True).folder
    logs = [(folder / "train.log").read_text() for folder in (outer, *inner)]
    assert [log.count("parameters on cpu") for log in logs] == [1, 1]
    assert "ended by on_iteration" not in logs[1]


@pytest.mark.slow
def test_a_run_in_a_thread_hears_no_signals():
    results = []
    thread = threading.Thread(target=lambda: results.append(seqrl.learn(*SMALL_TASK, "env=tmaze", quiet=True).facts))
    thread.start()
    thread.join()
    assert results[0]["status"] == "finished"


def learned(seed):
    return seqrl.learn(*SMALL_TASK, "env=tmaze", f"seed={seed}", quiet=True).score


@pytest.mark.slow
def test_runs_in_a_pool_are_those_of_one_process():
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(learned, [1, 2])) == [learned(1), learned(2)]


def forked(words):
    return seqrl.learn(*SMALL_TASK, "env=tmaze", *words, quiet=True).facts["status"]


@pytest.mark.slow
def test_a_fork_of_a_process_that_had_several_threads_is_refused_them(monkeypatch):
    # As if a run before this one had had them.
    monkeypatch.setattr(device, "_had_threads", {"in": os.getpid()})
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        with pytest.raises(seqrl.ConfigError, match=r"^device\.threads: a run before this one .* \(got 2\)\. Start"):
            pool.submit(forked, ["device.threads=2"]).result(60)
        assert pool.submit(forked, []).result(60) == "finished"


def test_a_signal_ends_it_with_a_checkpoint():
    def watch(row, policy):
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError, match=r"stopped by SIGTERM\. Continue with resume="):
        seqrl.learn(*SMALL_TASK, "env=tmaze", "episodes=50", on_iteration=watch, quiet=True)
    assert seqrl.runs()[0].status == "interrupted"


@pytest.mark.slow
def test_hydra_is_left_as_it_was():
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        HydraConfig.instance().set_config(compose_with_hydra("config", return_hydra_config=True))
        before = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
        seqrl.compose("env=tmaze")
        assert (GlobalHydra.instance().hydra, HydraConfig.instance().cfg) == before
        assert compose_with_hydra("config", ["seed=4"]).seed == 4


def test_runs_are_listed_with_the_newest_first_and_what_cannot_be_read_is_left_out(tmp_path):
    first = seqrl.learn(*SMALL_TASK, "env=tmaze", "seed=1", quiet=True).folder
    second = seqrl.learn(*SMALL_TASK, "env=tmaze", "seed=2", "name=mine", quiet=True).folder
    (tmp_path / "outputs" / "broken").mkdir()
    (tmp_path / "outputs" / "broken" / "manifest.json").write_text("{")
    found = seqrl.runs(tmp_path / "outputs")
    assert [run.folder for run in found] == [second, first]
    assert [(run.status, run.task, run.config.seed) for run in found] == [
        ("finished", "tmaze", 2),
        ("finished", "tmaze", 1),
    ]
    assert second.name.endswith("_mine")
    assert seqrl.load("latest").network.initial_state(1).keys()


@pytest.mark.slow
def test_a_run_of_the_list_loads_its_policy_which_says_in_one_line_whose_it_is(tmp_path):
    names = []
    result = seqrl.learn(
        *SMALL_TASK, "env=tmaze", "network=gru", on_iteration=lambda row, policy: names.append(repr(policy)), quiet=True
    )
    (run,) = seqrl.runs()
    policy = run.policy(checkpoint="last", device="cpu", trust=[])
    assert repr(policy) == f"<seqrl.Policy of tmaze, gru, {run.folder}>"
    assert {*names} == {f"<seqrl.Policy of tmaze, gru, {result.folder}>"}
    with pytest.raises(CheckpointError, match="there is none after 7 iterations"):
        run.policy(7)


@pytest.mark.usefixtures("tmaze")
def test_a_manifest_is_read_once_for_each_run_of_the_list(monkeypatch):
    read = []
    for module in (begun, manifest):
        whole = module.read_text
        monkeypatch.setattr(module, "read_text", lambda path, whole=whole: read.append(path) or whole(path))
    (run,) = seqrl.runs()
    assert read == [run.folder / "manifest.json"]
    assert run.started == run.facts["started"]


@pytest.mark.parametrize("name", ["nope", "file"])
def test_a_folder_of_runs_that_is_not_there_is_refused_with_the_line_of_the_command(tmp_path, name):
    assert seqrl.runs() == []
    (tmp_path / "file").touch()
    with pytest.raises(seqrl.ConfigError) as refused:
        seqrl.runs(name)
    assert refused.value.faults == [f"runs: {name} is not a folder. Name one that holds runs."]
    with pytest.raises(seqrl.ConfigError, match="outputs is not a folder"):
        seqrl.runs("outputs")
    (tmp_path / "outputs").touch()
    with pytest.raises(seqrl.ConfigError, match="outputs is not a folder"):
        seqrl.runs()


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    "odd", [{"started": 10**400}, {"started": float("nan")}, {"env_steps": "many"}, {"env_steps": [1]}]
)
def test_a_manifest_that_says_what_no_run_says_is_left_out_and_is_never_the_latest(tmaze, tmp_path, odd):
    shutil.copytree(tmaze, tmaze.with_name("odd"))
    manifest = tmaze.with_name("odd") / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | odd))
    assert [run.folder for run in seqrl.runs(tmp_path / "outputs")] == [tmaze]
    if "started" in odd:
        assert named_run(Path("latest")) == tmaze.relative_to(tmp_path)


@pytest.mark.thin(3)
@pytest.mark.parametrize("config", ["env: ???\n", "[1]\n", "env: 7\n", "{"])
def test_a_configuration_that_names_no_task_ends_no_list_of_runs(tmaze, tmp_path, config):
    (tmaze / "config.yaml").write_text(config)
    ((run),) = seqrl.runs(tmp_path / "outputs")
    assert run.task == ""
    assert run_program(tmp_path, "-m", "seqrl.runs").returncode == 0


def test_the_latest_of_no_runs_is_an_error_that_says_so():
    with pytest.raises(CheckpointError, match="there is no run in outputs"):
        seqrl.load("latest")


def test_runs_are_printed_with_task_status_return_steps_and_age(tmp_path):
    run = seqrl.learn(*SMALL_TASK, "env=tmaze", quiet=True)
    printed = run_program(tmp_path, "-m", "seqrl.runs").stdout.splitlines()
    assert printed[0].split() == ["task", "status", "return", "steps", "age", "run"]
    words = printed[1].split()
    assert words[:2] == ["tmaze", "finished"]
    assert float(words[2]) == pytest.approx(run.score, abs=0.01)
    assert tmp_path / words[-1] == run.folder
    refused = run_program(tmp_path, "-m", "seqrl.runs", "nowhere")
    assert (refused.returncode, refused.stderr) == (
        2,
        "seqrl: error: runs: nowhere is not a folder. Name one that holds runs.\n",
    )
    (tmp_path / "empty").mkdir()
    assert run_program(tmp_path, "-m", "seqrl.runs", "empty").stdout == "There are no runs in empty.\n"


def test_whatever_strangers_call_their_runs_a_line_is_a_run_and_those_left_out_are_named(tmp_path):
    config = "env: {_target_: seqrl.envs.GymnasiumEnv, id: %s}"
    for name, told, id in [
        ("a\nfinished  1.00", {"result": 1e100, "env_steps": 10**99, "started": -1e99}, "x"),
        ("[b]:smile:", {"started": 1.0}, '"a\\nfinished 1.00"'),
        ("long", {"started": 2.0}, "x" * 10_000),
    ]:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(config % id)
        (folder / "manifest.json").write_text(json.dumps({"status": "finished"} | told))
    for name in ("half", "pipe"):
        (tmp_path / "runs" / name).mkdir()
    (tmp_path / "runs" / "half" / "manifest.json").write_text('{"status": "fini')
    os.mkfifo(tmp_path / "runs" / "pipe" / "manifest.json")
    done = run_program(tmp_path, "-m", "seqrl.runs", "runs")
    lines = done.stdout.splitlines()
    assert [line.rpartition("  runs/")[2] for line in lines[1:]] == ["long", "[b]:smile:", r"a\nfinished  1.00"]
    assert max(map(len, lines)) < 300
    half, pipe = sorted(done.stderr.splitlines())
    assert half.startswith("seqrl: warning: runs/half/manifest.json: is not JSON (")
    assert pipe == "seqrl: warning: runs/pipe/manifest.json: is not a regular file. This run is left out."
    assert (half.endswith("This run is left out."), done.returncode) == (True, 0)


@pytest.mark.slow
def test_a_refused_run_leaves_the_log_of_the_one_beside_it(tmp_path):
    def beside():
        with pytest.raises(seqrl.ConfigError):
            seqrl.learn(*SMALL_TASK, "env=tmaze", "device=cuda", f"hydra.run.dir={tmp_path / 'refused'}", quiet=True)
        logging.getLogger("seqrl").warning("goes on")

    def watch(row, policy):
        thread = threading.Thread(target=beside)
        thread.start()
        thread.join()

    run = seqrl.learn(*SMALL_TASK, "env=tmaze", on_iteration=watch, quiet=True)
    assert "goes on" in (run.folder / "train.log").read_text()
    assert not (tmp_path / "refused").exists()


@pytest.mark.slow
def test_importing_seqrl_imports_no_torch():
    code = "import sys, seqrl; seqrl.compose(); seqrl.runs('.'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_every_public_name_says_what_it_is():
    for name in seqrl.__all__:
        assert inspect.getdoc(getattr(seqrl, name)), name
    assert set(seqrl.__all__) <= set(dir(seqrl))
    with pytest.raises(AttributeError, match="no attribute 'lern'"):
        seqrl.lern  # noqa: B018


@pytest.mark.slow
def test_the_program_of_the_same_name_does_not_hide_the_function(tmp_path):
    code = "import seqrl.runs, seqrl; print(seqrl.runs('.'))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_in_another_thread_a_run_says_that_nothing_ends_an_environment_that_hangs():
    notes = []

    def build():
        with closing(GymnasiumEnv("CartPole-v1", 1, 0, backend="sync", timeout_seconds=60)) as env:
            notes.extend(env.notes)

    build()
    assert not notes
    thread = threading.Thread(target=build)
    thread.start()
    thread.join()
    assert [note.partition(":")[0] for note in notes] == ["env.timeout_seconds has no effect here"]


def test_words_that_are_no_texts_and_checkpoints_that_are_none_are_refused(tmaze):
    with pytest.raises(TypeError, match="an override is a text"):
        seqrl.compose(3)
    for checkpoint in (True, "newest", 1.5):
        with pytest.raises(seqrl.ConfigError, match="checkpoint: must be last, best"):
            seqrl.load(tmaze, checkpoint=checkpoint)
    # As NumPy counts.
    assert seqrl.load(tmaze, checkpoint=np.int64(2)).network


@pytest.mark.parametrize(
    ("put", "other"), [(torch.set_default_device, "meta"), (torch.set_default_dtype, torch.float64)]
)
def test_a_policy_is_loaded_as_it_was_saved_whatever_a_program_has_set_in_torch(tmaze, put, other):
    before = {"meta": None, torch.float64: torch.float32}[other]
    put(other)
    try:
        policy = seqrl.load(tmaze)
        assert torch.get_default_dtype() == other or torch.get_default_device().type == other
    finally:
        put(before)
    assert {(it.device.type, it.dtype) for it in policy.network.parameters()} == {("cpu", torch.float32)}


def test_a_policy_is_loaded_and_plays_the_same_where_a_program_infers_or_casts(cartpole):
    def value(policy):
        return policy.value(np.ones(4, np.float32), policy.initial_state())

    usual = value(seqrl.load(cartpole))
    with torch.inference_mode():
        assert value(seqrl.load(cartpole)) == usual
    with torch.device("meta"):
        assert {it.device.type for it in seqrl.load(cartpole).network.parameters()} == {"cpu"}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert value(seqrl.load(cartpole)) == usual


def test_a_state_of_no_rows_has_none_and_is_equal_to_itself_alone(tmaze):
    policy = seqrl.load(tmaze)
    state = policy.initial_state(3)
    assert state[np.zeros(3, bool)].rows == 0
    assert state == state
    assert state != policy.initial_state(3)


@pytest.mark.slow
def test_a_long_name_is_cut_and_an_odd_one_is_written_plainly():
    long = seqrl.learn(*SMALL_TASK, "env=tmaze", f"name={'x' * 300}", quiet=True).folder
    assert len(long.name) < 255
    odd = seqrl.learn(*SMALL_TASK, "env=tmaze", "name='my run/2'", quiet=True).folder
    assert odd.name.endswith("_my-run-2")


def test_what_is_no_state_and_what_reset_returns_are_named(cartpole):
    policy = seqrl.load(cartpole)
    with pytest.raises(TypeError, match=r"begin an episode with policy\.initial_state\(\) \(got NoneType\)"):
        policy(np.zeros(4), None)
    with pytest.raises(ValueError, match="this is what reset returns, observation and info"):
        policy((np.zeros(4), {}), policy.initial_state())


@pytest.mark.slow
def test_python_trusts_what_the_shell_does(tmp_path, monkeypatch):
    (tmp_path / "shelled.py").write_text(
        "import gymnasium\nfrom gymnasium.envs.classic_control import CartPoleEnv\n"
        "gymnasium.register('Shelled-v0', CartPoleEnv, max_episode_steps=5)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = (*SMALL, "env.id=shelled:Shelled-v0")
    with pytest.raises(seqrl.ConfigError, match=r"add trust=\[shelled\]"):
        seqrl.learn(*words, quiet=True)
    assert seqrl.learn(*words, "trust=[shelled]", quiet=True).policy().action_space.n == 2
    monkeypatch.setenv("SEQRL_TRUST", "[shelled]")
    assert seqrl.load(seqrl.learn(*words, quiet=True).folder).action_space.n == 2


def test_an_environment_of_one_run_leaves_the_log_of_another_that_begins_or_ends_meanwhile(tmp_path):
    root, calls = logging.getLogger(), importlib.import_module("seqrl.envs.gym.calls")
    before = list(root.handlers)
    with learning._logged(tmp_path / "a.log"):
        (a,) = set(root.handlers) - set(before)
        with ThreadPoolExecutor(1) as other:
            b = learning._logged(tmp_path / "b.log")
            found = calls._logs()
            other.submit(b.__enter__).result()
            calls._set_logs(found)
            assert len(root.handlers) == len(before) + 2
            found = calls._logs()
            other.submit(b.__exit__, None, None, None).result()
            # As an environment does that sets up logging of its own.
            root.handlers.clear()
            calls._set_logs(found)
            assert root.handlers == [*before, a]
    assert root.handlers == before


@pytest.mark.slow
def test_runs_side_by_side_in_threads_have_logs_of_their_own(tmp_path):
    logger, together = logging.getLogger("seqrl"), threading.Barrier(2, timeout=60)
    before, met = (logger.level, logger.propagate, list(logger.handlers)), set()

    def train(seed):
        def meet(row, policy):
            if seed not in met:
                met.add(seed)
                together.wait()
                logging.getLogger("seqrl.mine").warning("of seed %d", seed)
                together.wait()

        return seqrl.learn(*SMALL_TASK, "env=tmaze", f"hydra.run.dir={tmp_path}/{seed}", on_iteration=meet, quiet=True)

    with ThreadPoolExecutor(2) as threads:
        runs = list(threads.map(train, (1, 2)))
    for seed, run in zip((1, 2), runs, strict=True):
        log = (run.folder / "train.log").read_text()
        assert (log.count(f"of seed {seed}"), log.count("of seed"), log.count("Algorithm, as the network")) == (1, 1, 1)
    assert (logger.level, logger.propagate, logger.handlers) == before


def test_a_run_with_more_threads_than_this_machine_has_cores_is_loaded(tmaze):
    config = tmaze / "config.yaml"
    config.write_text(config.read_text().replace("threads: 1\n", "threads: 4096\n"))
    assert "threads: 4096" in config.read_text()
    assert seqrl.load(tmaze).initial_state().memory


def test_the_latest_run_says_which_damaged_one_it_passes_over(tmaze, tmp_path):
    older, newer = tmaze.with_name("older"), tmaze.with_name("newer")
    for folder in (older, newer):
        folder.mkdir()
        (folder / "manifest.json").write_text("{")
    os.utime(older / "manifest.json", (1, 1))
    said = run_program(tmp_path, "-m", "seqrl.evaluate", "run=latest", "episodes=2")
    assert said.returncode == 0
    (line,) = said.stderr.splitlines()
    assert re.search(r"latest: passed over outputs/\S+/newer/manifest\.json, which is not JSON \(.*\); using out", line)


def test_what_a_constructor_warns_of_is_masked_while_a_policy_is_loaded(tmaze, tmp_path, monkeypatch):
    monkeypatch.setattr(masks, "_FROM_ENVIRONMENT", {"hush-hush": "MY_KEY"})
    monkeypatch.setattr(warnings, "formatwarning", own := lambda message, *more: str(message))
    shown, made = [], playing.make_env

    def warns(*parts):
        shown.append(warnings.formatwarning("a weak hush-hush", UserWarning, "x.py", 1))
        return made(*parts)

    monkeypatch.setattr(playing, "make_env", warns)
    seqrl.load(tmaze)
    assert shown == ["a weak ${oc.env:MY_KEY}"]
    assert warnings.formatwarning is own


def test_warnings_are_masked_until_the_last_of_several_threads_wants_it(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", own := lambda message, *more: str(message))
    first, second = masked_warnings(), masked_warnings()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert warnings.formatwarning is not own
    second.__exit__(None, None, None)
    assert warnings.formatwarning is own
