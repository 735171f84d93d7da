"""Whatever is typed, the answer is a run or a line for each fault: exit code 2, no traceback, nothing left behind."""

import math

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from seqrl.config.hydra_errors import message_for
from seqrl.config.paths import CONF, choices
from seqrl.config.program import completed
from seqrl.config.validate import faults, keys
from seqrl.errors import ConfigError
from seqrl.run.rehearsal import rehearse

pytestmark = pytest.mark.filterwarnings("ignore")

GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "schema")
NETWORK = ["network.hidden_size=8", "network.lstm_hidden_size=8", "network.window=4"]
SMALL = [*NETWORK, "parallel=2", "rollout_length=8", "algorithm.epochs=1"]


def composed(*words):
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", list(words))


KEYS = sorted(set(keys(composed())) | set(keys(composed("env=gymnasium"))) | set(keys(composed("algorithm=reinforce"))))
numbers = st.one_of(
    st.integers(-3, 70),
    st.sampled_from(
        [10**6, 10**12, 10**20, -(10**20), 2**31, 2**63, 1.5, -0.5, 1e-9, 1e300, math.nan, math.inf, -math.inf]
    ),
)
ODD = """
    null true off yes maybe abc lstm cpu cuda 'quoted' " ' a=b a,b [ ] [] [1,2] [a,[b]] {} {a:1} {a:{b:[1]}} ???
    ${nope.a} ${seed} ${oc.env:NOPE} ${ é 日本 os.system seqrl.networks.LSTM seqrl.nothing torch.nn.Linear 010 0x1F
    1_000 1e3 - -- ~ ../.. / \\ %s CartPole-v1 os:Thing-v0 Nothing-v7 : * !!python/name:os
"""
words = st.sampled_from([*ODD.split(), "", "a b", "a\tb", "a\nb", "{a: [b]}"])
values = st.one_of(numbers.map(str), words, st.text(max_size=8))
known = st.sampled_from(KEYS)
typos = st.builds(
    lambda key, at, letter: key[:at] + letter + key[at + 1 :], known, st.integers(0, 12), st.sampled_from("x._-+/")
)
overrides = st.one_of(
    st.builds(
        "{}{}={}".format, st.sampled_from(["", "", "", "+", "++"]), st.one_of(known, known, known, typos), values
    ),
    st.builds("~{}".format, known),
    st.builds(
        "{}={}".format,
        st.sampled_from(GROUPS),
        st.one_of(values, st.sampled_from([c for g in GROUPS for c in choices(g)])),
    ),
    values,
)


def answer(given_words):
    """Exit code and lines of `seqrl.train validate=true` with these words."""
    typed = [*SMALL, *given_words]
    try:
        typed = completed(typed, leave_nothing=False)
        cfg = composed(*typed)
        if found := faults(cfg):
            raise ConfigError(found)
        rehearse(cfg)
    except Exception as error:
        said = message_for(error, typed)
        if said is None:
            raise
        lines, code = said
        return code, lines
    return 0, []


@pytest.fixture(autouse=True)
def _nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


FEW = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.slow
@FEW
@given(st.lists(overrides, min_size=1, max_size=2))
def test_junk_is_answered_in_lines(tmp_path, typed):
    code, lines = answer(typed)
    # 3: resume names a folder that is not a run's.
    assert code in (0, 2, 3, 5)
    assert (code == 0) == (lines == [])
    for line in lines:
        assert line.strip()
        assert "Traceback" not in line
        assert "\n" not in line.strip()
    # Hypothesis makes a folder for itself.
    assert {path.name for path in tmp_path.iterdir()} <= {".hypothesis"}


@pytest.mark.slow
@settings(FEW, max_examples=2000, derandomize=False)
@given(st.lists(overrides, min_size=1, max_size=2))
def test_much_junk_is_answered_in_lines(tmp_path, typed):
    test_junk_is_answered_in_lines.hypothesis.inner_test(tmp_path, typed)
