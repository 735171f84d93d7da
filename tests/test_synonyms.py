"""Other libraries' words lead to the keys of seqrl."""

import re

import pytest

import seqrl
from seqrl.config.paths import CONF
from seqrl.config.schema import SCHEMAS, keys_of
from seqrl.config.synonyms import KEYS, REMARKS, ours
from tests.programs import run_program
from tests.test_configuration import composed

GUIDE = (CONF.parent / "docs" / "coming_from.md").read_text()


def test_no_word_is_a_key_of_seqrl_or_means_two_of_them():
    own = {key for schema in SCHEMAS.values() for key in keys_of(schema)}
    words = [word for words in KEYS.values() for word in words]
    assert not own & set(words)
    assert len(words) == len(set(words))
    assert set(REMARKS) <= set(KEYS)


@pytest.mark.parametrize("key", [key for key in KEYS if key not in ("env.id", "name")])
def test_every_key_that_is_named_is_there(key):
    cfg = composed()
    for part in key.split("."):
        assert part in cfg
        cfg = cfg[part]


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("n_envs=8", "n_envs: there is no such key. Here it is parallel."),
        ("algorithm.n_epochs=3", "algorithm.n_epochs: there is no such key. Here it is algorithm.epochs."),
        ("+max_grad_norm=0.5", "max_grad_norm: there is no such key. Here it is sequence_learning.grad_clip_norm."),
        ("env.num_envs=3", "env.num_envs: there is no such key. Here it is parallel."),
        ("--total-timesteps=9", "--total-timesteps=9: there is no such option. Keys have no dashes: total_steps=9."),
        ("--experiment", "--experiment: there is no such option. Keys have no dashes: experiment=…."),
        ("--frobnicate", "--frobnicate: there is no such option. Keys have no dashes: frobnicate=…."),
    ],
)
def test_another_librarys_word_is_answered_with_the_key(tmp_path, word, line):
    ended = run_program(tmp_path, "-m", "seqrl.train", word)
    assert (ended.returncode, ended.stderr) == (2, f"seqrl: error: {line}\n")
    assert not list(tmp_path.iterdir())


def test_the_table_for_newcomers_says_what_the_errors_say():
    own = {key for schema in SCHEMAS.values() for key in keys_of(schema)}
    rows = [re.findall(r"`([^`]*)`", " | ".join(line.split("|")[1:5])) for line in GUIDE.splitlines() if "| `" in line]
    assert len(rows) > 20
    for key, *words in rows:
        for word in words:
            assert ours(word) == key or (word in own and key.endswith(word)), word


@pytest.mark.thin(2)
@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("bptt_length=2", "bptt_length: there is no such key. Did you mean sequence_learning.bptt_length? "),
        (
            "algorithm.bptt_length=2",
            "algorithm.bptt_length: follows sequence_learning.bptt_length. Set that one (got 2).",
        ),
        (
            "env=CartPole-v1",
            "env: there is no env=CartPole-v1. For an environment of that id, write env.id=CartPole-v1.",
        ),
        ("network=LSTM", "network: there is no network=LSTM. Did you mean lstm? "),
    ],
)
def test_a_key_or_a_choice_that_is_nearly_right_is_answered_with_the_right_one(tmp_path, word, line):
    ended = run_program(tmp_path, "-m", "seqrl.train", word)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"seqrl: error: {line}")


@pytest.mark.slow
def test_python_blames_the_word_that_is_wrong_and_no_other():
    with pytest.raises(seqrl.ConfigError) as refused:
        seqrl.compose("env.id=CartPole-v1", "lr=1e-3")
    assert refused.value.faults == ["lr: there is no such key. Here it is algorithm.learning_rate."]
