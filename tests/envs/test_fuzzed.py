"""However odd an environment is, the program says what is wrong in a line, or does all that it was asked to do."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.envs import oddities
from tests.programs import run_program
from tests.test_fuzz import FEW

STEPS = 24
SMALL = [
    "trust=[oddities]", "env.timeout_seconds=10", "network.hidden_size=8",
    "network.lstm_hidden_size=8", "parallel=2", f"total_steps={STEPS}", "evaluation.episodes=2", "algorithm.epochs=1",
    "logger=jsonl", "hydra.run.dir=run", "runner.episode_limit=100",
]  # fmt: skip
# Of the program: done, a fault of the configuration, of what it computes, or of the environment.
CODES = {0, 2, 4, 5}


def by_place(odd: list[str]) -> list[str]:
    """At most one oddity for each place."""
    return list({it.partition("@")[2]: it for it in odd}.values())


oddities_of_one = st.lists(st.sampled_from(oddities.ALL), min_size=1, max_size=3).map(by_place)
# Each takes seconds.
FEWER = settings(FEW, max_examples=2)
odd_environments = given(
    odd=oddities_of_one,
    early=st.booleans(),
    backend=st.sampled_from(["sync", "async"]),
    rollout_length=st.sampled_from([0, 6]),
)


def program(folder: Path, name: str, *words: str) -> int:
    done = run_program(folder, "-m", f"seqrl.{name}", *words)
    said = done.stdout + done.stderr
    assert done.returncode in CODES, (words, done.returncode, said)
    assert "unexpected" not in said, (words, said)
    assert "Traceback" not in said, (words, said)
    assert done.returncode == 0 or "seqrl: error: " in done.stderr, (words, done.returncode, said)
    return done.returncode


def check(folder: Path, odd: list[str], early: bool, backend: str, rollout_length: int, mode: str = "") -> None:
    """`mode`, of a vector form, is when it begins episodes."""
    shutil.copy(oddities.__file__, folder)
    shutil.rmtree(folder / "run", ignore_errors=True)
    kwargs = [f"+env.kwargs.odd=[{','.join(repr(it) for it in odd)}]", f"+env.kwargs.early={early}"]
    which = ["env.id=oddities:OddVector-v0", f"+env.kwargs.mode={mode}"] if mode else ["env.id=oddities:Odd-v0"]
    code = program(
        folder, "train", *SMALL, *which, *kwargs, f"env.backend={backend}", f"rollout_length={rollout_length}"
    )
    if code:
        return
    manifest = json.loads((folder / "run" / "manifest.json").read_text())
    assert manifest["status"] == "finished", odd
    assert manifest["env_steps"] >= STEPS, odd
    assert '"evaluation/return_mean"' in (folder / "run" / "metrics.jsonl").read_text(), odd
    video = str(not mode).lower()
    code = program(folder, "evaluate", "run=run", "trust=[oddities]", f"video={video}")
    assert (folder / "run" / "evaluation.json").exists() == (code == 0), odd
    code = program(folder, "inspect", "run=run", "trust=[oddities]", "episodes=2")
    assert (folder / "run" / "inspect.html").exists() == (code == 0), odd


odd_vector_forms = given(
    odd=st.sampled_from(oddities.ALL_TRUTHS).map(lambda it: [it]),
    early=st.booleans(),
    backend=st.sampled_from(["vector", "auto"]),
    rollout_length=st.sampled_from([0, 6]),
    mode=st.sampled_from(oddities.MODES),
)


@FEWER
@odd_environments
def test_an_odd_environment_is_named_or_played_to_the_end(tmp_path, **odd):
    check(tmp_path, **odd)


@pytest.mark.slow
@FEWER
@odd_vector_forms
def test_an_odd_vector_form_is_named_or_played_to_the_end(tmp_path, **odd):
    check(tmp_path, **odd)


@pytest.mark.slow
@settings(FEW, max_examples=300, derandomize=False)
@odd_environments
def test_many_odd_environments_are_named_or_played_to_the_end(tmp_path, **odd):
    check(tmp_path, **odd)


@pytest.mark.slow
@pytest.mark.parametrize("mode", oddities.MODES)
@pytest.mark.parametrize("odd", oddities.ALL_TRUTHS)
def test_every_odd_vector_form_is_named_or_played_to_the_end(tmp_path, odd, mode):
    check(tmp_path, [odd], early=False, backend="vector", rollout_length=0, mode=mode)


@pytest.mark.slow
@pytest.mark.parametrize("odd", oddities.ALL)
def test_every_oddity_alone_is_named_or_the_environment_played_to_the_end(tmp_path, odd):
    backend = "async" if odd.startswith(("die", "kill")) else "sync"
    check(tmp_path, [odd], early=False, backend=backend, rollout_length=0)
