"""What is wrong with a part of the user's own is said in one line, with the section that names it."""

import signal
import sys

import pytest
from hydra import compose, initialize_config_dir

from seqrl.config.hydra_errors import message_for
from seqrl.config.paths import CONF
from seqrl.config.validate import faults
from seqrl.envs import CartPole
from seqrl.errors import CheckpointError, ConfigError, EnvError, OutOfMemoryError, StoppedError
from seqrl.machine import hear
from seqrl.run.build import build, constructor, takes
from tests.test_train import train
from tests.worlds import Cue

PARTS = """
import torch
from seqrl.algorithms import SequencePPOAlgorithm
from seqrl.networks import LSTM, Encoder, Network, Trunk

def network(observation_space, action_space, width, memory=None):
    if width % 2:
        raise ValueError(f"width {width} is odd\\nand more")
    trunk = Trunk(Encoder(observation_space, width), {"lstm": LSTM(width, width)})
    return Network(trunk, None, width, action_space)

def odd(cell):
    return cell

class Mine(SequencePPOAlgorithm):
    def __init__(self, network, shuffle, *, mine, **told):
        super().__init__(network, shuffle, **told)
"""
NESTED = "_target_: parts.network\nwidth: 4\nmemory: {}\n"
FILES = {
    "network/sound.yaml": "_target_: parts.network\nwidth: 4\n",
    "network/bare.yaml": "_target_: parts.network\n",
    "network/more.yaml": "_target_: parts.network\nwidth: 4\nwdth: 4\n",
    "network/misspelt.yaml": "_target_: parts.netwrk\nwidth: 4\n",
    "network/nowhere.yaml": "_target_: no_such_parts.network\nwidth: 4\n",
    "network/unreadable.yaml": "_target_: unreadable.network\nwidth: 4\n",
    "network/lacking.yaml": "_target_: lacking.network\nwidth: 4\n",
    "network/exiting.yaml": "_target_: exiting.network\nwidth: 4\n",
    "network/nested.yaml": "_target_: parts.network\nwidth: 4\nmemory: {_target_: torch.nn.Lin}\n",
    "network/nested_exiting.yaml": NESTED.format("{_target_: parts.odd, cell: {_target_: exiting.cell}}"),
    "network/nested_gone.yaml": NESTED.format("{_target_: gone.cell}"),
    "network/nested_failing.yaml": NESTED.format("{_target_: parts.odd}"),
    "algorithm/mine.yaml": "defaults: [ppo]\n_target_: parts.Mine\nmine: 1\n",
    "algorithm/bare.yaml": "_target_: parts.Mine\nmine: 1\nclip_range: 0.2\ntarget_kl: null\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    modules = {"unreadable": "def network(:\n", "lacking": "import no_such_package\n", "exiting": "raise SystemExit"}
    modules["gone"] = "class Gone(BaseException): pass\nraise Gone('no licence')"
    for name, text in {"parts": PARTS, **modules}.items():
        (folder / f"{name}.py").write_text(text)
    for name, text in FILES.items():
        (folder / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "conf" / name).write_text(text)
    yield folder
    sys.modules.pop("parts", None)


@pytest.fixture
def begun(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)

    def begun(*overrides):
        own = [
            f"hydra.searchpath=[file://{folder}/conf]",
            "trust=[parts,no_such_parts,unreadable,lacking,exiting,gone]",
            *overrides,
        ]
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            cfg = compose("config", ["parallel=2", *own])
        assert faults(cfg) == []
        return build(cfg, constructor(cfg.device)())

    return begun


@pytest.mark.thin(4)
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["network=bare"],
            "network: parts.network: TypeError: network() missing 1 required positional argument: 'width'.",
        ),
        (["network=more"], "network.wdth: parts.network takes no such parameter. Did you mean width?"),
        (["network=sound", "network.width=3"], "network: parts.network: ValueError: width 3 is odd (parts.py:8)."),
        (["network=misspelt"], "network._target_: parts has no netwrk. Did you mean network?"),
        (
            ["network=nowhere"],
            "network._target_: there is no module 'no_such_parts'. Install it, or check the spelling and PYTHONPATH.",
        ),
        (
            ["network=unreadable"],
            "network._target_: the module 'unreadable' cannot be imported: SyntaxError: invalid syntax "
            "(unreadable.py, line 1). Fix it.",
        ),
        (
            ["network=lacking"],
            "network._target_: the module 'lacking' cannot be imported: No module named 'no_such_package'. "
            "Install what it needs.",
        ),
        (
            ["network=exiting"],
            "network._target_: the module 'exiting' exits when it is imported (SystemExit (exiting.py:1)). "
            "Let it do so only where __name__ == '__main__'.",
        ),
        (["network=nested"], "network.memory._target_: torch.nn has no Lin. "),
        (
            ["network=nested_exiting"],
            "network.memory.cell._target_: the module 'exiting' exits when it is imported (SystemExit (exiting.py:1))",
        ),
        (
            ["network=nested_gone"],
            "network.memory._target_: the module 'gone' cannot be imported: Gone: no licence (gone.py:2). Fix it.",
        ),
        (
            ["network=nested_failing"],
            "network.memory._target_: parts.odd: odd() missing 1 required positional argument: ",
        ),
        (
            ["algorithm=mine", "algorithm.mein=1"],
            "algorithm.mein: parts.Mine takes no such parameter. Did you mean mine?",
        ),
        (
            ["algorithm=mine", "algorithm.epohcs=1"],
            "algorithm.epohcs: parts.Mine takes no such parameter. Did you mean epochs?",
        ),
        (
            ["algorithm=bare"],
            "algorithm: parts.Mine: TypeError: Settings.__init__() missing 16 required keyword-only arguments: ",
        ),
    ],
)
def test_a_fault_of_an_own_part_is_one_line_with_its_section(begun, overrides, said):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        begun(*overrides)
    (line,), exit_code = message_for(caught.value)
    assert exit_code == 2
    assert line.startswith(said)
    assert "\n" not in line


def test_own_parts_that_are_sound_are_built(begun):
    run = begun("network=sound", "algorithm=mine")
    assert type(run.algorithm).__name__ == "Mine"
    assert sorted(run.algorithm.network.initial_state(2)) == ["actor.lstm.cell", "actor.lstm.hidden"]


def test_what_says_all_itself_is_left_as_it_is(begun, monkeypatch):
    error = OutOfMemoryError("memory: no room")

    def fail(*_):
        raise error

    monkeypatch.setattr("seqrl.networks.network.Encoder.__init__", fail)
    with pytest.raises(type(error)) as caught:
        begun("network=sound")
    assert caught.value is error


@pytest.mark.parametrize(
    "error",
    [
        CheckpointError("resume: mine"),
        StoppedError("stopped by SIGTERM.", 143),
        EnvError("env.k: mine."),
        SystemExit("0."),
    ],
)
def test_an_error_of_seqrl_that_an_own_part_meets_does_not_pass_as_the_run_s_own(begun, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("seqrl.networks.network.Encoder.__init__", fail)
    with pytest.raises(ConfigError, match=rf"^network: parts\.network: {type(error).__name__}: {error.args[0][:-1]}"):
        begun("network=sound")


def test_what_a_signal_raises_while_a_part_is_built_is_no_fault_of_the_part(begun, monkeypatch):
    def stopped(number, frame):
        raise StoppedError("stopped by SIGUSR1.", 138)

    before = hear(signal.SIGUSR1, stopped)
    monkeypatch.setattr("seqrl.networks.network.Encoder.__init__", lambda *_: signal.raise_signal(signal.SIGUSR1))
    with pytest.raises(StoppedError):
        begun("network=sound")
    signal.signal(signal.SIGUSR1, before)


def test_a_part_for_which_there_is_no_memory_is_named_with_a_remedy(begun, monkeypatch):
    def fail(*_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 9 bytes.")

    monkeypatch.setattr("seqrl.networks.network.Encoder.__init__", fail)
    with pytest.raises(
        OutOfMemoryError, match=r"^memory: what network asks for does not fit .* Its largest number is "
    ):
        begun("network=sound")


@pytest.mark.parametrize("key", ["env.bits=1000000000000", "network.window=1000000000000000"])
def test_what_is_too_large_for_the_memory_is_named_and_leaves_nothing_behind(tmp_path, key):
    refused = train(
        tmp_path, "env=memory_chain", "network=attention", key, "evaluation.episodes=0", "hydra.run.dir=run"
    )
    assert refused.returncode == 2
    assert refused.stderr.endswith(f"Its largest number is {key}: use a smaller one.\n")
    assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


class Knows(CartPole):
    """Says nothing of `first`, which it hands on."""

    def __init__(self, *given, **named):
        super().__init__(*given, **named)


class Swallows(Cue):
    """Takes whatever it is given, and does not use it."""

    def __init__(self, batch_size, seed, **named):
        super().__init__(batch_size, seed)


class Mapped(dict):
    """Derives from what does not say what it takes."""

    def __init__(self, batch_size, **named):
        super().__init__(**named)


@pytest.mark.parametrize(
    ("made", "knows"), [(CartPole, True), (Knows, True), (Cue, False), (Swallows, False), (Mapped, False)]
)
def test_a_class_knows_its_first_environment_if_it_or_one_that_it_hands_on_to_has_the_parameter(made, knows):
    assert takes(made, "first") is knows
