"""An exported policy computes, without torch, what the policy computes, or there is none."""

import json
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
import yaml
from gymnasium import spaces
from omegaconf import OmegaConf

import seqrl
from seqrl.envs import CountRecall, GymnasiumEnv, TMaze
from seqrl.envs.adopted import adopted
from seqrl.envs.inputs import WithInputs
from seqrl.files import insist_on_own
from seqrl.run.checkpoint import Checkpoints
from seqrl.text import masks
from tests.envs.everything import ID
from tests.parts import NETWORKS, room, small_network
from tests.programs import run_program
from tests.test_evaluate import CONFIG, MINE
from tests.test_train import TINY, train
from tests.worlds import Script

pytest.importorskip("onnx", reason="the extra export is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")
pytest.importorskip("onnxscript", reason="the extra export is not installed")

from seqrl.export import __main__ as program
from seqrl.export import hub
from seqrl.export.card import MARK, card
from seqrl.export.facts import evaluated, facts, trained
from seqrl.export.model import model
from seqrl.export.own import own
from seqrl.export.ports import Port
from seqrl.export.proof import Exported, Proof, prove
from seqrl.export.step import OneStep, apart

ROOT = Path(__file__).parent.parent
# Steps that are compared here; the program compares more.
STEPS = 300


def stepped(env, kind="lstm", hidden=(), **more):
    """A network of random numbers, and the same as a step that can be exported."""
    network = small_network(env, kind, **more).eval()
    with torch.no_grad():
        for weight in (it for it in network.parameters() if it.dim() > 1):
            # As large as those of a network that learns: float32 rounds sums of hundreds.
            weight.mul_(2 / (weight.numel() / len(weight)) ** 0.5)
    network.adapt(env.reset())
    space = SimpleNamespace(observation_space=apart(env.observation_space), action_space=env.action_space)
    copy = small_network(space, kind, **more).requires_grad_(False).eval()
    copy.load_state_dict(network.state_dict())
    return network, OneStep(copy, env, own(env, hidden))


def exported(*given, **more):
    """The same, and its model."""
    network, step = stepped(*given, **more)
    return network, step, model(step, {})


def proven(env, kind="lstm", hidden=(), **more):
    with closing(env):
        network, step, data = exported(env, kind, hidden, **more)
        proof = prove(data, step, env, network, torch.Generator().manual_seed(0), STEPS)
    assert proof.steps >= STEPS
    return proof


QUICK = ("lstm", "attention")


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("kind", "continuous"),
    [
        pytest.param(kind, number % 2 == 1, marks=() if kind in QUICK else pytest.mark.slow)
        for number, kind in enumerate(NETWORKS)
    ],
)
def test_every_network_is_exported_as_it_acts(kind, continuous):
    proof = proven(Script([[3, 5], [4], [7]], continuous=continuous), kind)
    assert proof.holds, (proof.wrong, proof.largest)
    assert proof.begun > 30
    assert proof.cleared > 0


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize(
    "space", [gymnasium.spaces.Discrete(3, start=5), gymnasium.spaces.Box(-2.0, 4.0, (1,))], ids=str
)
def test_a_batch_of_ones_own_is_exported_in_its_own_units(space):
    batch = Script([[3, 5], [4], [7]])
    batch.action_space = space
    env = adopted(batch)
    assert own(env, ()).acted[""] == space
    assert proven(env).holds


class Shows(gymnasium.Env):
    """Shows samples of one space, and takes actions of another; insists that they are in it."""

    def __init__(self, seen, acts):
        self.observation_space, self.action_space = seen, acts

    def reset(self, *, seed=None, options=None):
        self.clock = 0
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.clock += 1
        return self.observation_space.sample(), float(self.clock), self.clock == 6, False, {}


gymnasium.register("test/Exported-v0", Shows, disable_env_checker=True)

PLACE, TWO = spaces.Box(-1, 1, (3,)), spaces.Discrete(2)
MANY = {"shape": (2, 2), "start": [[1, -1], [0, 5]]}
SEEN = {
    "float64": spaces.Box(-1e3, 1e3, (3,), np.float64),
    "float16": spaces.Box(-1, 1, (2,), np.float16),
    "int16": spaces.Box(-100, 100, (2, 2), np.int16),
    "a number": spaces.Box(-1, 1, ()),
    "image": spaces.Box(0, 255, (12, 10, 3), np.uint8),
    "large image": spaces.Box(0, 255, (36, 36), np.uint8),
    "bytes": spaces.Box(3, 9, (4,), np.uint8),
    "stack of images": spaces.Box(0, 255, (2, 8, 8, 1), np.uint8),
    "choice": spaces.Discrete(4, start=-2),
    "choices": spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[1, -1], [0, 5]]),
    "switches": spaces.MultiBinary([2, 2]),
    "tuple": spaces.Tuple([PLACE, spaces.Dict({"b c": spaces.Discrete(3, start=1)})]),
}
ACTS = {
    "choice": spaces.Discrete(3, start=-1),
    "choices": spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[1, -1], [0, 5]]),
    "switches": spaces.MultiBinary([2, 2]),
    # The last is fixed.
    "bounded": spaces.Box(np.array([-2, 100, 7], np.float32), np.array([2, 101, 7], np.float32)),
    "a number": spaces.Box(-2, 3, ()),
    "unbounded": spaces.Box(-np.inf, np.inf, (2, 2)),
    "half bounded": spaces.Box(np.array([0, -np.inf]), np.array([np.inf, 0.1]), dtype=np.float64),
    "float16": spaces.Box(-3, 3, (2,), np.float16),
}
INPUTS = ["previous_action", "previous_reward", "first"]


def shows(seen=PLACE, acts=TWO, inputs=(), **more):
    env = GymnasiumEnv("test/Exported-v0", 3, 0, backend="sync", kwargs={"seen": seen, "acts": acts}, **more)
    return WithInputs(env, inputs) if inputs else env


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:gymnasium")
@pytest.mark.parametrize(
    "env",
    [
        pytest.param(lambda: shows(spaces.Dict(SEEN), spaces.Dict(ACTS), INPUTS), marks=pytest.mark.slow),
        pytest.param(lambda: shows(SEEN["choices"], ACTS["choices"]), marks=pytest.mark.slow),
        lambda: shows(SEEN["stack of images"], spaces.Tuple([ACTS["bounded"], ACTS["a number"]]), INPUTS),
        pytest.param(
            lambda: GymnasiumEnv(ID, 3, 0, backend="sync", hidden=["mission", "body.0"]), marks=pytest.mark.slow
        ),
        pytest.param(lambda: WithInputs(CountRecall(3, 0), INPUTS), marks=pytest.mark.slow),
        pytest.param(lambda: GymnasiumEnv("CartPole-v1", 3, 0), marks=pytest.mark.slow),
    ],
    ids=["every space", "choices", "bounded", "masks", "tensors", "vector form"],
)
def test_what_goes_in_and_comes_out_is_the_environments_own(env):
    proof = proven(env(), normalize_observations=True)
    assert proof.holds, (proof.wrong, proof.largest)


@pytest.mark.slow
@pytest.mark.parametrize("inputs", [(), INPUTS], ids=["observation", "inputs"])
@pytest.mark.parametrize("seen", SEEN)
def test_every_observation_goes_in_as_the_environment_shows_it(seen, inputs):
    proof = proven(shows(SEEN[seen], inputs=inputs), normalize_observations=True)
    assert proof.holds, (proof.wrong, proof.largest)


@pytest.mark.slow
@pytest.mark.parametrize("inputs", [(), INPUTS], ids=["observation", "inputs"])
@pytest.mark.parametrize("acts", ACTS)
def test_every_action_comes_out_as_the_environment_is_given_it(acts, inputs):
    proof = proven(shows(acts=ACTS[acts], inputs=inputs))
    assert proof.holds, (proof.wrong, proof.largest)


class Masked(Shows):
    """Allows some of its choices, and says in info which."""

    def reset(self, *, seed=None, options=None):
        observation, _ = super().reset(seed=seed)
        return observation, self.info()

    def step(self, action):
        assert self.allowed[action], "an action that is not allowed"
        observation, *result, _ = super().step(action)
        return observation, *result, self.info()

    def info(self):
        self.allowed = np.arange(4) % 3 != self.clock % 3
        return {"action_mask": self.allowed}


gymnasium.register("test/Masked-v0", Masked, disable_env_checker=True)


@pytest.mark.slow
def test_a_mask_in_info_and_hidden_numbers_are_exported():
    kwargs = {"seen": PLACE, "acts": spaces.Discrete(4)}
    env = GymnasiumEnv("test/Masked-v0", 3, 0, backend="sync", kwargs=kwargs, action_mask="info", hidden=[1])
    network, step, data = exported(env, "memoryless", hidden=[1])
    assert prove(data, step, env, network, torch.Generator().manual_seed(0), STEPS).holds
    assert [(port.name, port.shape) for port in step.inputs] == [("observation", (3,)), ("action_mask", (4,))]
    only = Exported(data, step, 4)
    shown = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    first = only.step({"observation": shown, "action_mask": np.eye(4, dtype=np.int8)})
    assert first["action"].tolist() == [0, 1, 2, 3]
    shown[:, 1] = np.nan
    for name, answer in only.step({"observation": shown, "action_mask": np.eye(4, dtype=np.int8)}).items():
        np.testing.assert_array_equal(answer, first[name])


def not_fed_back(step, patch):
    def answered(self, shown):
        before = self.memory
        answers = step_with_memory(self, shown)
        self.memory = before
        return answers

    step_with_memory = Exported.step
    patch.setattr(Exported, "step", answered)


def not_cleared(step, patch):
    patch.setattr(Exported, "forget", lambda self, where: None)


def not_scaled(step, patch):
    step.acts[0].is_scaled = False


def not_normalised(step, patch):
    step.network.actor.encoder.readers[0].normalizer = None


def not_counted(step, patch):
    step.reads[1].start = None


def not_flagged(step, patch):
    patch.setattr("seqrl.export.step.remembered", lambda chosen, *_: {"next_previous_action": 1 - chosen[""]})


@pytest.mark.slow
@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("mistake", "found"),
    [
        (not_fed_back, "next_state.actor.lstm.hidden"),
        (not_cleared, "next_state.actor.lstm.hidden"),
        (not_scaled, "action"),
        pytest.param(not_normalised, "next_state.actor.lstm.hidden", marks=pytest.mark.slow),
        pytest.param(not_counted, "next_state.actor.lstm.hidden", marks=pytest.mark.slow),
        pytest.param(not_flagged, "next_previous_action", marks=pytest.mark.slow),
    ],
)
def test_a_step_that_is_not_the_policys_is_found_out(mistake, found, monkeypatch):
    seen = spaces.Tuple([spaces.Box(-500, 500, (2,)), spaces.Discrete(4, start=-1)])
    env = shows(seen, ACTS["bounded"], ["previous_action"])
    network, step = stepped(env, normalize_observations=True)
    mistake(step, monkeypatch)
    proof = prove(model(step, {}), step, env, network, torch.Generator().manual_seed(0), STEPS)
    assert not proof.holds
    assert found in proof.wrong or proof.apart[found] > 1e-3


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a run whose policy sees its last action, and acts within bounds."""
    folder = tmp_path_factory.mktemp("trained")
    more = [
        "env=gymnasium",
        "env.id=Pendulum-v1",
        "+env.kwargs.max_episode_steps=20",
        "network.inputs=[previous_action]",
    ]
    tiny = [word for word in TINY if not word.startswith("env.")]
    done = train(folder, *tiny, *more, "network.normalize_observations=true", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def export(monkeypatch, capsys):
    """Runs the program, with fewer steps; returns its exit code, what it printed, and its error."""
    monkeypatch.setattr(program, "STEPS", STEPS)

    def exports(*words):
        monkeypatch.setattr(sys, "argv", ["export", *words])
        try:
            program.main()
            code = 0
        except SystemExit as ended:
            code = ended.code
        told = capsys.readouterr()
        return code, told.out, told.err.removeprefix("seqrl: error: ").rstrip("\n")

    return exports


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    """Folder of an exported policy."""
    to = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "STEPS", STEPS)
        patch.setattr(sys, "argv", ["export", f"run={run}", f"to={to}"])
        program.main()
    return to


@pytest.fixture
def exported_before(folder, monkeypatch):
    """The policy need not be exported again."""
    monkeypatch.setattr(program, "model", lambda step, told: (folder / "policy.onnx").read_bytes())


def session(folder):
    import onnxruntime

    return onnxruntime.InferenceSession(folder / "policy.onnx", providers=["CPUExecutionProvider"])


def observations(batch=1):
    return np.zeros((batch, 3), np.float32)


def given(folder, batch=1):
    inputs = {it.name: np.zeros((batch, *it.shape[1:]), np.float32) for it in session(folder).get_inputs()}
    return {**inputs, "observation": observations(batch)}


@pytest.mark.slow
def test_the_model_says_what_it_is(folder):
    about = session(folder).get_modelmeta().custom_metadata_map
    assert [(it["name"], it["dtype"], it["shape"]) for it in json.loads(about["inputs"])] == [
        ("observation", "float32", ["batch", 3]),
        ("previous_action", "float32", ["batch", 1]),
        ("state.actor.lstm.hidden", "float32", ["batch", 8]),
        ("state.actor.lstm.cell", "float32", ["batch", 8]),
    ]
    outputs = {it["name"]: it for it in json.loads(about["outputs"])}
    assert list(outputs) == [
        *("action", "mean", "log_std", "value", "next_state.actor.lstm.hidden", "next_state.actor.lstm.cell"),
        "next_previous_action",
    ]
    assert (outputs["mean"]["times"], outputs["mean"]["plus"], outputs["mean"]["cut_at_-1_and_1"]) == ([2], [0], [True])
    assert outputs["next_previous_action"]["feeds"] == "previous_action"
    assert json.loads(about["environment"])["id"] == "Pendulum-v1"
    assert (about["seqrl_version"], about["torch_version"], about["iterations"]) == (
        seqrl.__version__,
        torch.__version__,
        "2",
    )
    assert {len(about["run_digest"]), len(about["weights_sha256"])} == {64}


def test_the_model_holds_no_line_of_a_file_of_this_machine(folder):
    data = (folder / "policy.onnx").read_bytes()
    assert not {word for word in (b".py", b"self.", str(ROOT).encode()) if word in data}


def test_the_weights_are_those_of_the_run(run, folder):
    from safetensors.torch import load_file

    weights = load_file(folder / "policy.safetensors")
    saved = Checkpoints(run).newest()[0]["algorithm"]["network"]
    assert list(weights) == sorted(saved)
    assert all(torch.equal(weights[name], saved[name]) for name in saved)


def test_what_the_card_says_of_a_step_is_what_it_takes(folder, monkeypatch):
    text = (folder / "README.md").read_text()
    lines = text.partition("## Step it")[2].partition("The first dimension")[0]
    code = "\n".join(line.removeprefix("    ") for line in lines.splitlines())
    monkeypatch.chdir(folder)
    known = {"observation": observations()}
    exec(code, known)
    assert known["answers"]["action"].shape == (1, 1)
    assert known["memory"].keys() == {"previous_action", "state.actor.lstm.hidden", "state.actor.lstm.cell"}
    assert np.abs(known["memory"]["state.actor.lstm.cell"]).max() > 0
    assert "the largest difference" in text.replace("; largest", "; the largest")
    assert "Mean return -" in text
    assert "- command: `python -m seqrl.train " in text


def test_the_step_that_the_page_computes_from_the_weights_is_the_policys(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    network = small_network(env := TMaze(3, seed=0, corridor_length=4), "lstm")
    save_file(network.state_dict(), tmp_path / "policy.safetensors")
    section = ROOT.joinpath("docs/export.md").read_text().partition("## The weights alone")[2].partition("## Limits")[0]
    code = "\n".join(line.removeprefix("    ") for line in section.splitlines() if line.startswith("    "))
    monkeypatch.chdir(tmp_path)
    exec(code, known := {})
    state = network.initial_state(3)
    hidden = cell = torch.zeros(3, network.actor.memory["lstm"].size)
    for _ in range(6):
        observation = env.reset()
        policy, _, state = network.step(observation, state)
        logits, hidden, cell = known["step"](observation, hidden, cell)
        each = [policy.log_prob(torch.full((3,), action)) for action in range(env.action_space.n)]
        assert torch.allclose(logits.log_softmax(-1), torch.stack(each, -1), atol=1e-5)


def test_any_batch_computes_its_rows_alone(folder):
    random, step = np.random.default_rng(0), session(folder)
    many = {name: random.normal(size=(7, *it.shape[1:])).astype(it.dtype) for name, it in given(folder).items()}
    together = step.run(None, many)
    for row in range(7):
        for whole, alone in zip(
            together, step.run(None, {name: it[row : row + 1] for name, it in many.items()}), strict=True
        ):
            np.testing.assert_allclose(whole[row : row + 1], alone, rtol=0, atol=1e-6)


def test_an_exported_policy_acts_as_the_loaded_one_does(run, folder):
    policy, step = seqrl.load(run), session(folder)
    names, env = [it.name for it in step.get_outputs()], gymnasium.make("Pendulum-v1", max_episode_steps=20)
    for episode in range(2):
        observation, _ = env.reset(seed=episode)
        state, memory, ended = policy.initial_state(), given(folder), False
        while not ended:
            action, state = policy(observation, state)
            answers = dict(zip(names, step.run(None, {**memory, "observation": observation[None]}), strict=True))
            np.testing.assert_allclose(answers["action"][0], action, rtol=0, atol=2e-5)
            memory = {name: answers.get(f"next_{name}") for name in memory}
            observation, _, terminated, truncated, _ = env.step(action)
            ended = terminated or truncated


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"observation": np.zeros((1, 4), np.float32)}, "Got invalid dimensions for input: observation"),
        ({"observation": np.zeros(3, np.float32)}, "Invalid rank for input: observation"),
        ({"observation": np.zeros((1, 3))}, "Unexpected input data type"),
        ({"state.actor.lstm.cell": None}, r"Required inputs \(\['state.actor.lstm.cell'\]\) are missing"),
        ({"stat.cell": np.zeros((1, 8), np.float32)}, "Invalid input name: stat.cell"),
        (
            {"observation": np.zeros((2, 3), np.float32), "state.actor.lstm.cell": np.zeros((3, 8), np.float32)},
            "cell|dimension",
        ),
    ],
)
def test_wrong_input_is_named_by_onnxruntime(folder, changed, said):
    inputs = {name: it for name, it in {**given(folder), **changed}.items() if it is not None}
    with pytest.raises(Exception, match=said):
        session(folder).run(None, inputs)


@pytest.mark.usefixtures("exported_before")
def test_a_step_that_differs_is_not_written(run, export, tmp_path, monkeypatch):
    monkeypatch.setattr("seqrl.export.proof.TOLERANCE", 0.0)
    code, _, said = export(f"run={run}", f"to={tmp_path / 'to'}")
    assert code == 1
    assert said.startswith("export: the exported step differs from the policy in ")
    assert said.endswith("Nothing was written.")
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["run"], 2, "run: is not key=value. Run python -m seqrl.export --help for the keys."),
        ([], 2, "run: is missing. Name the folder of a run, such as outputs/runs/<date>/<run>."),
        (["run=x", "chekpoint=3"], 2, "chekpoint: there is no such key. Did you mean checkpoint? "),
        (["run=x", "checkpoint=-1"], 2, "checkpoint: must be last, best or a number of iterations (got -1)."),
        (["run=x", "hub=me"], 2, "hub: must be a repository, such as user/name (got me)."),
        (["run=x", "to="], 2, "to: must be a folder (got )."),
        (["run=x"], 3, "run: x does not exist. python -m seqrl.runs lists the runs."),
    ],
)
def test_a_wrong_word_gets_one_line(export, words, code, said):
    ended, _, line = export(*words)
    assert (ended, line.startswith(said), "\n" in line) == (code, True, False), line


def test_a_folder_that_is_a_file_is_refused_before_anything_is_proved(run, export, tmp_path, monkeypatch):
    monkeypatch.delattr(program, "made")
    (tmp_path / "mine").write_text("# My project\n")
    code, _, line = export(f"run={run}", f"to={tmp_path / 'mine'}")
    assert (code, f"{tmp_path / 'mine'}: is not a folder" in line) == (2, True), line


@pytest.mark.parametrize("name", ["README.md", "policy.onnx", "policy.safetensors"])
def test_a_file_that_is_not_seqrls_is_neither_replaced_nor_joined(run, export, tmp_path, name):
    (tmp_path / name).write_text("# My project\n")
    code, _, line = export(f"run={run}", f"to={tmp_path}")
    assert (code, f"{tmp_path / name}: was not written by seqrl. Remove what stands in its way" in line) == (2, True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "# My project\n")]


def test_each_file_of_an_export_is_known_by_itself(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    insist_on_own(tmp_path, program.FILES)
    for name in program.FILES:
        (tmp_path / name).write_text("# My project\n")
        with pytest.raises(OSError, match="was not written by seqrl"):
            insist_on_own(tmp_path, program.FILES)
        shutil.copy(folder / name, tmp_path)


@pytest.mark.slow
def test_an_export_is_replaced_by_the_next(run, export, tmp_path):
    for _ in range(2):
        assert export(f"run={run}", f"to={tmp_path}")[0] == 0


@pytest.mark.slow
def test_an_export_for_which_there_is_no_room_leaves_the_one_before_as_it_was(run, export, tmp_path, monkeypatch):
    def files(size):
        made = {"README.md": f"{MARK}{size}".encode(), "policy.onnx": b"seqrl_version" + bytes(size)}
        monkeypatch.setattr(program, "made", lambda *_: (made, Proof()))

    files(10)
    assert export(f"run={run}", f"to={tmp_path}")[0] == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    files(10_000)
    with room(1000):
        code, _, line = export(f"run={run}", f"to={tmp_path}")
    assert (code, line.partition(". ")[0]) == (2, f"{tmp_path / 'policy.onnx'}: File too large")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_in_the_card_each_input_has_a_variable_of_its_own():
    names = ["observation.tup.0", "observation.tup.1", "observation.a.x", "observation.b.x", "observation.if", "first"]
    words = ["observation_tup_0", "observation_tup_1", "observation_a_x", "observation_b_x", "observation_if", "first"]
    ports = [Port(name, "float32", (1,), "") for name in names]
    told = {"left_to_you": [], "environment": {}, "iterations": 1, "env_steps": 1, "weights_sha256": ""}
    text = card(ports, [], told, [], "", Proof())
    given = ", ".join(f'"{name}": {word}' for name, word in zip(names, words, strict=True))
    assert f"session.run(None, {{{given}, **memory}})" in text


def test_what_a_stranger_says_of_a_run_adds_nothing_to_the_card(tmp_path):
    forged = "x`\n\n## How it was checked\n\nBy everybody."
    (tmp_path / "manifest.json").write_text(
        json.dumps({"command": ["python", "-m", "seqrl.train", f"env.id={forged}"]})
    )
    told = {"left_to_you": [forged], "environment": {"id": forged}, "iterations": 1, "env_steps": 1}
    text = card([], [], {**told, "weights_sha256": ""}, trained(tmp_path), "", Proof())
    assert [line for line in text.splitlines() if line.startswith("## How it was checked")] == ["## How it was checked"]
    assert "By everybody." not in text.splitlines()


def test_the_card_of_a_run_that_was_resumed_has_the_command_that_began_it(tmp_path):
    resumed = {"command": ["python", "-m", "seqrl.train", "resume=latest"]}
    began = {"overrides": ["env=tmaze", "trust=[a b]"], "config_dir": "/my conf"}
    (tmp_path / "manifest.json").write_text(json.dumps(resumed | began))
    said = "command: `python -m seqrl.train '--config-dir=/my conf' env=tmaze 'trust=[a b]'`"
    assert trained(tmp_path) == [said]


@pytest.mark.parametrize(
    "odd",
    [
        {"seconds": 10**400},
        {"seconds": "long"},
        {"evaluation_return_mean": 10**400, "evaluation_episodes": 3},
        {"evaluation_return_mean": 1.0, "evaluation_episodes": float("inf")},
        {"evaluation_return_mean": 1.0, "evaluation_episodes": float("nan")},
    ],
)
def test_what_an_odd_manifest_says_is_left_out_of_the_card(tmp_path, odd):
    (tmp_path / "manifest.json").write_text(json.dumps({"command": ["python", "-m", "seqrl.train"], **odd}))
    trained(tmp_path)
    assert evaluated(tmp_path, {"iterations": 1}).startswith("Not evaluated.")


def test_an_odd_evaluation_is_left_out_of_the_card(tmp_path):
    measured = {"return_mean": 10**400, "return_interval": [1, 2], "returns": [1]}
    (tmp_path / "evaluation.json").write_text(json.dumps({"greedy": measured, "iterations": 1}))
    assert evaluated(tmp_path, {"iterations": 1}).startswith("Not evaluated.")


def test_the_card_has_the_return_of_its_own_policy_in_its_own_environment_alone(tmp_path):
    manifest = {"status": "finished", "env_steps": 200, "evaluation_return_mean": 7.0, "evaluation_episodes": 50}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    last, earlier = {"iterations": 2, "env_steps": 200}, {"iterations": 1, "env_steps": 100}
    assert evaluated(tmp_path, last).startswith("Mean return 7 over 50 episodes, in the final evaluation")
    assert evaluated(tmp_path, earlier).startswith("Not evaluated.")
    measured = {"return_mean": 3.0, "return_interval": [2, 4], "returns": [3.0]}
    for changed, said in ([], "Mean return 3 "), (["env.corridor_length: 6 -> 40"], "Not evaluated."):
        found = {"greedy": measured, "iterations": 1, "changed": changed}
        (tmp_path / "evaluation.json").write_text(json.dumps(found))
        assert evaluated(tmp_path, earlier).startswith(said)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    assert evaluated(tmp_path, last).startswith("Not evaluated.")


def test_a_secret_number_that_is_a_number_of_the_model_too_spoils_no_facts(run, monkeypatch):
    monkeypatch.setattr(masks, "_FROM_ENVIRONMENT", {"1234": "MY_PIN"})
    step = SimpleNamespace(inputs=[Port("observation", "float32", (1234,), "a pin of 1234")], outputs=[], more={})
    cfg = OmegaConf.create({"env": {"id": "X-v0"}})
    (told,) = facts(run, cfg, {"iterations": 1}, step, b"")["inputs"]
    assert told["shape"] == ["batch", 1234]
    assert told["about"] == "a pin of ${oc.env:MY_PIN}"


@pytest.mark.parametrize(
    ("missing", "words", "said"),
    [
        (["onnx"], [], "export: onnx is not installed. Install it: pip install 'seqrl[export]'."),
        (["onnxruntime", "safetensors"], [], "export: onnxruntime, safetensors are not installed. Install them: "),
        (
            ["huggingface_hub"],
            ["hub=me/it"],
            "hub: huggingface_hub is not installed. Install it: pip install 'seqrl[hub]'.",
        ),
    ],
)
def test_a_missing_package_is_named_before_anything_is_read(export, missing, words, said, monkeypatch):
    for module in (program, hub):
        monkeypatch.setattr(module, "is_installed", lambda name: name not in missing)
    code, printed, line = export("run=x", *words)
    assert (code, printed) == (2, "")
    assert line.startswith(said)


class Hub:
    """Stands in for the Hub: keeps what it is told."""

    def __init__(self, fault=None):
        self.told, self.fault = [], fault

    def create_repo(self, repo_id, **more):
        self.told.append((repo_id, more))

    def upload_folder(self, repo_id, folder_path, allow_patterns, commit_message):
        if self.fault:
            raise self.fault
        self.told.append((repo_id, sorted(allow_patterns), sorted(it.name for it in Path(folder_path).iterdir())))
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}")


@pytest.mark.slow
@pytest.mark.usefixtures("exported_before")
def test_the_files_and_nothing_else_are_uploaded(run, export, tmp_path, monkeypatch):
    there = Hub()
    monkeypatch.setattr(hub, "insist_on_package", lambda: None)
    monkeypatch.setattr(hub, "api", lambda: there)
    code, printed, _ = export(f"run={run}", f"to={tmp_path}", "hub=me/pole")
    files = ["README.md", "policy.onnx", "policy.safetensors"]
    assert (code, printed.splitlines()[-1]) == (0, "Uploaded: https://hub/me/pole")
    assert there.told == [("me/pole", {"private": True, "exist_ok": True}), ("me/pole", files, files)]


def test_an_upload_that_fails_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "api", lambda: Hub(OSError("401 Client Error\nmore")))
    said = r"^hub: the files are in \S+, and could not be uploaded to me/pole \(OSError: 401 Client Error [^\n]+\.$"
    with pytest.raises(hub.UploadError, match=said):
        hub.upload(tmp_path, ["policy.onnx"], "me/pole")


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Makes a run of a network of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)

    def make(code):
        (tmp_path / "mine.py").write_text(code)
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(CONFIG))
        state = {"algorithm": {"network": {"trust_in_memory": torch.tensor(1.0)}}}
        Checkpoints(tmp_path / "run").save({**state, "iterations": 3, "steps": 5}, 3)
        return tmp_path / "run"

    return make


@pytest.mark.slow
def test_a_network_of_ones_own_is_exported(mine, export):
    made = mine(MINE)
    code, printed, said = export("run=run", "trust=[mine]")
    assert code == 0, said
    assert "run, after 3 iterations, 5 steps\npolicy.onnx, " in printed
    assert sorted(it.name for it in (made / "export").iterdir()) == ["README.md", "policy.onnx", "policy.safetensors"]
    assert [it.name for it in session(made / "export").get_inputs()] == ["observation", "state.sign"]


def test_a_network_that_asks_what_its_tensors_hold_gets_one_line(mine, export):
    made = mine(MINE.replace("turn = 0.1", "turn = 0.1 * float(sign.sum() > 0)"))
    code, _, said = export("run=run", "trust=[mine]")
    assert code == 2
    assert said.startswith("network: its step cannot be exported (")
    assert said.endswith(
        "). Compute it with tensors of torch alone, alike for any batch, and without questions to what they hold."
    )
    assert "\n" not in said
    assert not (made / "export").exists()


def test_help_lists_every_key(tmp_path):
    done = run_program(tmp_path, "-m", "seqrl.export", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"  {key}=" in done.stdout for key in ("run", "checkpoint", "to", "hub", "trust"))


@pytest.mark.slow
def test_the_example_runs_where_neither_seqrl_nor_torch_is_installed(tmp_path):
    done = train(tmp_path, *TINY[:2], *TINY[3:], "experiment=masked_cartpole", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert run_program(tmp_path, "-m", "seqrl.export", "run=run").returncode == 0
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "numpy", "onnxruntime"], check=True)
    there = "import importlib.util as it; print(it.find_spec('torch'), it.find_spec('seqrl'))"
    assert (
        subprocess.run([python, "-I", "-c", there], cwd=tmp_path, capture_output=True, text=True).stdout
        == "None None\n"
    )
    command = [python, "-I", ROOT / "examples" / "deploy" / "cartpole.py", tmp_path / "run" / "export" / "policy.onnx"]
    played = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert played.returncode == 0, played.stderr
    assert [line.partition(":")[0] for line in played.stdout.splitlines()] == [f"episode {n}" for n in range(1, 6)]
