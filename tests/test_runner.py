import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from seqrl.envs import CartPole, MemoryChain, TMaze
from seqrl.envs.inputs import WithInputs
from seqrl.errors import ActionNotFiniteError, ConfigError, FaultyEnvError
from seqrl.networks.heads import Categorical
from seqrl.runner import Runner, rounds
from tests.parts import ppo, small_network
from tests.worlds import Script


def runner(env, rollout_length, state_interval=0, kind="lstm+attention", sample=True):
    generator = torch.Generator().manual_seed(0) if sample else None
    return Runner(env, small_network(env, kind, torch.float64), rollout_length, state_interval, generator)


def replay(network, observations, state=None):
    """Memory before each of these observations of one episode, the value of each, and the memory after all."""
    state = network.initial_state(1) if state is None else state
    memories, values = [], []
    with torch.no_grad():
        for observation in observations:
            memories.append(state)
            _, value, state = network.step(observation.unsqueeze(0), state)
            values.append(value.item())
    return memories, values, state


def test_whole_episodes_are_exactly_one_of_every_environment():
    env = Script([[3], [1], [7], [7]])
    rollout = runner(env, rollout_length=0).collect()
    assert rollout.valid.sum(0).tolist() == [3, 1, 7, 7]
    assert rollout.ended.sum(0).tolist() == [1, 1, 1, 1]
    assert (rollout.observation[..., 1] == 0)[rollout.valid].all()  # no step of a second episode
    assert runner(env, 0).collect().valid.sum(0).tolist() == [3, 1, 7, 7]


class Keeps:
    """Remembers the very observation that it was shown, and writes each value over the one before."""

    def __init__(self, network):
        self.network, self.value = network, torch.zeros(2)

    def initial_state(self, batch_size):
        return {"seen": torch.zeros(batch_size, 4)}

    def step(self, observation, state):
        policy, value, _ = self.network.step(observation, {})
        return policy, self.value[: len(value)].copy_(value), {"seen": observation}


@pytest.mark.parametrize(("what", "said"), [("value", "the value that step returns"), ("log_prob", "log_prob")])
def test_a_network_that_answers_with_columns_is_refused(what, said, monkeypatch):
    network = small_network(Script([[3], [4]]))
    if what == "value":
        step = network.step
        monkeypatch.setattr(network, "step", lambda *given: (step(*given)[0], torch.zeros(2, 1), step(*given)[2]))
    else:
        monkeypatch.setattr(Categorical, "log_prob", lambda self, action: torch.zeros(len(action), 1))
    with pytest.raises(ConfigError, match=rf"^network: {said} must have shape \[2\] \(got \[2, 1\]\): another one"):
        Runner(Script([[3], [4]]), network, 5, 0, torch.Generator().manual_seed(0)).collect()


def test_a_network_that_learns_from_a_column_of_values_is_refused(monkeypatch):
    network = small_network(Script([[3], [4]]))
    rollout = Runner(Script([[3], [4]]), network, 5, 0, torch.Generator().manual_seed(0)).collect()
    unroll = network.unroll
    monkeypatch.setattr(network, "unroll", lambda batch: (unroll(batch)[0], unroll(batch)[1].unsqueeze(1)))
    with pytest.raises(
        ConfigError, match=r"^network: the value that unroll returns must have shape \[\d+\] \(got \[\d+, 1\]\)"
    ):
        ppo(network).update(rollout, 0.0)


class Zeroes(Script):
    """Writes to the actions that it is given."""

    def step(self, action):
        step = super().step(action)
        action.zero_()
        return step


def test_an_environment_that_writes_to_its_actions_changes_no_input_of_the_policy():
    def seen(env):
        env = WithInputs(env, ["previous_action"])
        return Runner(env, small_network(env), 9, 2, torch.Generator().manual_seed(0)).collect().observation

    assert torch.equal(seen(Zeroes([[3], [4]])), seen(Script([[3], [4]])))


def test_what_a_network_and_an_environment_do_with_their_tensors_changes_nothing_that_is_recorded():
    def collected(env, network):
        return Runner(env, network, 9, 2, torch.Generator().manual_seed(0)).collect()

    network = small_network(Script([[3], [4]]), "memoryless")
    expected, rollout = collected(Script([[3], [4]]), network), collected(Zeroes([[3], [4]]), Keeps(network))
    for name in ("observation", "action", "log_prob", "value", "next_value"):
        assert torch.equal(getattr(rollout, name), getattr(expected, name)), name
    # What is stored of a memory is that of before the step.
    where = rollout.state_index >= 0
    assert torch.equal(rollout.state["seen"][rollout.state_index[where]][:, 2], rollout.observation[where][:, 2] - 1)


def test_short_whole_episodes_are_played_several_times_by_every_environment_to_fill_the_rollout():
    env = Script([[2, 1, 4, 1], [4, 3, 2, 1]])
    play = runner(env, rollout_length=0)
    play.rollout_steps = 11
    first, second, third = play.collect(), play.collect(), play.collect()
    # The first rollout shows how long episodes are: 6 steps a round, so that two rounds come nearest to 11 steps.
    assert first.valid.sum(0).tolist() == [2, 4]
    assert second.ended.sum(0).tolist() == [2, 2]
    assert second.valid.sum(0).tolist() == [1 + 4, 3 + 2]
    # 5 steps a round now; after its last episode the script begins again.
    assert third.ended.sum(0).tolist() == [2, 2]
    assert third.valid.sum(0).tolist() == [1 + 2, 1 + 4]


def test_rare_rewards_are_gathered_in_longer_rollouts_of_which_episodes_count_as_well():
    # Two chains of five steps, each with one reward at its end.
    env = MemoryChain(2, seed=1, length=4)
    play = runner(env, rollout_length=0)
    play.rollout_steps, play.rollout_rewards = 10, 7
    assert [int(play.collect().ended.sum()) for _ in range(2)] == [2, 8]
    # Eight times the steps are the most.
    play.rollout_rewards = 1000
    play.collect()
    assert int(play.collect().ended.sum()) == 2 * 8


@pytest.mark.parametrize(
    ("steps", "rewards", "expected"),
    [
        (500, 500, 4),  # a reward at every step
        (1600, 16, 4),  # one in an episode
        (1600, 0, 4),  # none
        (1600, 32, 2),
        (3000, 16, 4),
        (5000, 16, 3),  # eight times 2,048 steps
        (20_000, 16, 1),
    ],
)
def test_a_rollout_has_enough_steps_and_rewards_or_episodes(steps, rewards, expected):
    assert rounds(2048, 64, steps, rewards, episodes=16) == expected
    assert rounds(1, 0, steps, rewards, episodes=16) == 1


def test_a_checkpoint_cannot_ask_for_more_rounds_than_a_rollout_may_have_steps():
    play = runner(TMaze(2, seed=1, corridor_length=2), rollout_length=0)
    play.rollout_steps = 10
    play.collect()
    # More than any memory holds.
    play.load_state_dict(play.state_dict() | {"rounds": 10**15})
    assert play.state_dict()["rounds"] == 80


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (
            lambda state: state | {"extra": torch.zeros(2, 3)},
            r"extra is missing before a step, and torch\.float32 of \[3\] ",
        ),
        (
            lambda state: {name: leaf.float() for name, leaf in state.items()},
            r"is torch\.float64 of \[\d\] before a step, and torch\.float32 of \[\d\] after it",
        ),
        (lambda state: dict(list(state.items())[1:]), "missing after it"),
        (
            lambda state: {name: leaf.repeat(1, 2) for name, leaf in state.items()},
            r"is torch\.float64 of \[\d\] .* and torch\.float64 of \[\d+\] ",
        ),
    ],
)
def test_a_memory_that_changes_its_form_is_refused_as_nothing_could_go_on_from_it(form, said):
    play = runner(Script([[3], [2]]), rollout_length=0, kind="lstm")
    step = play.network.step
    play.network.step = lambda *given: (*(answer := step(*given))[:2], form(answer[2]))
    with pytest.raises(ConfigError, match=rf"^network: its memory must keep its form, but .*{said}"):
        play.collect()


def test_episodes_of_several_rounds_begin_with_fresh_memory():
    env = Script([[3, 2, 2], [1, 3, 1]])
    play = runner(env, rollout_length=0)
    play.rollout_steps = 8
    play.collect()
    rollout = play.collect()
    for row, lengths in enumerate(([2, 2], [3, 1])):
        seen, value = rollout.observation[:, row][rollout.valid[:, row]], rollout.value[:, row][rollout.valid[:, row]]
        for episode, values in zip(seen.split(lengths), value.split(lengths), strict=True):
            assert values.tolist() == pytest.approx(replay(play.network, episode)[1], abs=1e-12)


def test_finished_environments_are_not_shown_to_the_network():
    env = Script([[3], [1], [7], [7]])
    play = runner(env, rollout_length=0)
    shown = []
    step = play.network.step
    play.network.step = lambda observation, state: shown.append(len(observation)) or step(observation, state)
    play.collect()
    # 4 at the first step, 3 until the third, 2 to the end; each truncation evaluates one more value.
    assert [n for n in shown if n > 1] == [4, 3, 3, 2, 2, 2, 2]


def test_fixed_length_rollouts_carry_episodes_and_memory_over():
    env = Script([[20]])
    play = runner(env, rollout_length=6, state_interval=0)
    first, second = play.collect(), play.collect()
    assert first.age.flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert second.age.flatten().tolist() == [6, 7, 8, 9, 10, 11]
    memories, _, _ = replay(play.network, [*first.observation[:, 0], *second.observation[:, 0]])
    assert second.state_index.flatten().tolist() == [0, -1, -1, -1, -1, -1]
    assert all(torch.equal(leaf[:1], memories[6][name]) for name, leaf in second.state.items())


def test_the_stored_memory_is_the_one_before_the_step():
    env = Script([[20]])
    play = runner(env, rollout_length=12, state_interval=4)
    rollout = play.collect()
    stored = (rollout.state_index[:, 0] >= 0).nonzero().flatten().tolist()
    assert stored == [4, 8]
    memories, _, _ = replay(play.network, rollout.observation[:, 0])
    for t in stored:
        (row,) = rollout.state_index[t].tolist()
        assert all(torch.equal(leaf[row : row + 1], memories[t][name]) for name, leaf in rollout.state.items())


@pytest.mark.parametrize("ghosts", [False, True])
def test_memory_resets_with_every_episode(ghosts):
    env = Script([[4, 2, 5]], ghosts=ghosts)
    play = runner(env, rollout_length=16)
    rollout = play.collect()
    observation, value = rollout.observation[rollout.valid], rollout.value[rollout.valid]
    begins = [*(rollout.age[rollout.valid] == 0).nonzero().flatten().tolist(), len(value)]
    for begin, end in itertools.pairwise(begins):
        assert value[begin:end].tolist() == pytest.approx(replay(play.network, observation[begin:end])[1], abs=1e-12)


@pytest.mark.parametrize("rollout_length", [0, 7])
@pytest.mark.parametrize("ends", ["terminated", "truncated", "both"])
def test_the_next_value_depends_on_how_the_episode_ended(rollout_length, ends):
    env = Script([[5]], ends=ends)
    play = runner(env, rollout_length)
    rollout = play.collect()
    final = torch.tensor([0.0, 0.0, 5.0, 1.0])  # the observation after the last step of the first episode
    _, values, _ = replay(play.network, [*rollout.observation[:5, 0], final])
    if ends == "truncated":
        following = values[1:]  # V(final observation), with the memory of the episode that ended
    else:
        following = [*values[1:5], 0.0]  # 0 after termination, even at the time limit
    assert rollout.next_value[:5, 0].tolist() == pytest.approx(following, abs=1e-12)


def test_a_rollout_that_stops_inside_an_episode_bootstraps_from_the_next_observation():
    env = Script([[20]])
    play = runner(env, rollout_length=6)
    first, second = play.collect(), play.collect()
    assert first.next_value[-1].item() == pytest.approx(second.value[0].item(), abs=1e-12)


def test_ghost_steps_are_marked_and_add_no_reward_step_or_age():
    env = Script([[2, 3]], ghosts=True)
    rollout = runner(env, rollout_length=8).collect()
    assert rollout.valid.flatten().tolist() == [1, 1, 0, 1, 1, 1, 0, 1]
    assert rollout.age[rollout.valid].tolist() == [0, 1, 0, 1, 2, 0]
    assert rollout.ended.flatten().tolist() == [0, 1, 0, 0, 0, 1, 0, 0]


def test_greedy_play_repeats_and_sampled_play_differs():
    plays = [
        runner(Script([[50]]), 0, sample=sample).collect().action.flatten().tolist() for sample in (False, False, True)
    ]
    assert plays[0] == plays[1] != plays[2]


class Waits(TorchDispatchMode):
    """Records every operation that would wait for an accelerator."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            index is not None and index.dtype == torch.bool
            for argument in args
            if isinstance(argument, (list, tuple))
            for index in argument
            if index is None or isinstance(index, torch.Tensor)
        )
        if by_mask or name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"):
            self.operations.append(name)
        return function(*args, **(kwargs or {}))


def as_on_an_accelerator(monkeypatch):
    monkeypatch.setattr("seqrl.runner.waits", lambda answer: True)


@pytest.mark.thin(2)
@pytest.mark.parametrize("task", [CartPole, TMaze])
def test_a_fixed_length_rollout_on_an_accelerator_waits_once_at_its_end(monkeypatch, task):
    arguments = {"max_episode_steps": 20} if task is CartPole else {"corridor_length": 5}
    play = runner(task(8, 0, **arguments), rollout_length=50)
    # In inference mode, torch does not dispatch all of these operations.
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)
    with Waits() as waits:
        play.collect()
    assert len(waits.operations) > 50  # on the CPU it may, because waiting costs nothing there
    as_on_an_accelerator(monkeypatch)
    play.collect()
    with Waits() as waits:
        play.collect()
    assert waits.operations == ["_local_scalar_dense"]  # the check that everything is finite


@pytest.mark.thin(3)
@pytest.mark.parametrize("ghosts", [False, True])
@pytest.mark.parametrize(("rollout_length", "state_interval"), [(0, 0), (0, 3), (16, 0), (16, 3)])
def test_an_accelerator_plays_the_same_rollouts(monkeypatch, rollout_length, state_interval, ghosts):
    def rollouts():
        play = runner(Script([[4, 2, 5], [9, 1], [30]], ghosts=ghosts), rollout_length, state_interval)
        return [play.collect() for _ in range(3)]

    plain = rollouts()
    as_on_an_accelerator(monkeypatch)
    for one, other in zip(plain, rollouts(), strict=True):
        for name in ("observation", "action", "log_prob", "value", "reward", "ended", "valid", "age"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        # Computed in a larger batch, products may round differently.
        assert torch.allclose(one.next_value, other.next_value, rtol=0, atol=1e-12)
        stored = one.state_index >= 0
        assert torch.equal(stored, other.state_index >= 0)
        for name, leaf in one.state.items():
            assert torch.equal(leaf[one.state_index[stored]], other.state[name][other.state_index[stored]])


def test_a_number_that_is_not_finite_is_located_on_an_accelerator_too(monkeypatch):
    env = Script([[4, 2, 5], [9, 1]])
    step, clock = env.step, itertools.count()

    def faulty(action):
        made = step(action)
        made.reward[1] = float("nan") if next(clock) == 6 else made.reward[1]
        return made

    env.step = faulty
    as_on_an_accelerator(monkeypatch)
    with pytest.raises(FaultyEnvError, match="environment 1, step 7 of its episode: its reward is nan"):
        runner(env, rollout_length=16).collect()


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_an_action_that_is_not_finite_is_not_the_environments_fault(number):
    env = Script([[5], [7]], continuous=True)
    play = runner(env, rollout_length=4, kind="lstm")
    plain, calls = env.step, []
    env.step = lambda action: calls.append(1) or plain(action)
    step = play.network.step

    def spoilt(observation, state):
        policy, value, state = step(observation, state)
        sample = policy.sample
        policy.sample = lambda generator: sample(generator).index_fill(1, torch.tensor([1]), number if calls else 0)
        return policy, value, state

    play.network.step = spoilt
    with pytest.raises(
        ActionNotFiniteError, match=rf"^policy: its action is {number:g} \(environment 0, step 2 of"
    ) as it:
        play.collect()
    assert it.value.exit_code == 4
    assert set(it.value.evidence) == {"observation", "action"}
    assert len(calls) == 1
