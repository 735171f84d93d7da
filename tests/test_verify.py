"""`python -m seqrl.verify` passes sound parts and reports defects."""

import platform
import re
import subprocess
import sys
import time
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path

import gymnasium
import pytest
import torch

from seqrl.algorithms import base
from seqrl.envs import GymnasiumEnv
from seqrl.seeds import stream
from seqrl.verify import environment, network, ranks
from seqrl.verify import subject as subjects
from seqrl.verify.__main__ import count_of, line_of, main
from seqrl.verify.cut import Cut
from seqrl.verify.environment import env_checks, is_playable
from seqrl.verify.findings import Finding, Status
from seqrl.verify.layers import time_limit
from seqrl.verify.network import network_checks
from seqrl.verify.play import BATCH, Budget, Play
from seqrl.verify.replay import elsewhere
from seqrl.verify.stage import Stage
from seqrl.verify.subject import Subject
from tests import broken
from tests.programs import run_program
from tests.test_configuration import composed
from tests.worlds import Script

# No more than what these defects need.
SHORT = Budget(seconds=0, least=520, resets=300, endless=2_000)
PASS, FAIL, WARN, UNCHECKED = Status


def subject_of(block, bptt_length=0, make_env=None, **kwargs):
    make_env = make_env or partial(broken.make, "Walk")
    torch.manual_seed(0)
    env = make_env(1, "spaces")
    made = broken.network(env.observation_space, env.action_space, block=block)
    return Subject(make_env, made, bptt_length, **kwargs)


def failed_by_network(*subject):
    return {finding.name for finding in network_checks(subject_of(*subject)) if finding.status is not PASS}


def stage_of(name, **more):
    return Stage(partial(broken.make, name, **more), SHORT)


def failed_by_env(make_env):
    return {finding.name for finding in env_checks(make_env, SHORT) if finding.status is not PASS}


@pytest.mark.thin(3)
@pytest.mark.parametrize("bptt_length", [0, 1, 5])
def test_a_sound_network_passes_everything(bptt_length):
    assert failed_by_network("sound", bptt_length) == set()


@pytest.mark.slow
@pytest.mark.thin(9)
@pytest.mark.parametrize("ends", ["terminated", "truncated", "both", "mixed"])
@pytest.mark.parametrize("ghosts", [False, True])
def test_a_sound_network_passes_with_every_kind_of_end(ends, ghosts):
    def make(batch_size, purpose):
        return Script([[3, 5, 1], [20], [2, 9], [1]], ends=ends, ghosts=ghosts)

    assert failed_by_network("sound", 4, make) == set()


LONG = "long sequences equal their single steps"
RATIO, VALUES = "ratio is 1 before the first update", "acting equals the unrolled sequence"
GRADIENTS, LEAK = "gradients equal the plain reference", "nothing leaks across a reset"
ALONE, LEFT = "padding and neighbours change nothing", "nothing is left in memory after a reset"
MODES, CROWD = "training and evaluation compute the same", "a batch as large as training's is the same"


REPORTED = {
    "Leaky": {RATIO, VALUES, GRADIENTS, LEAK},
    "Centred": {RATIO, VALUES, GRADIENTS, ALONE},
    "StopsGradient": {GRADIENTS},
    "BeginsWithOnes": {LEFT},
    "ForgetsWhenActing": {RATIO, VALUES, GRADIENTS},
    "DropsOut": {RATIO, VALUES, GRADIENTS},
    "Crowded": {CROWD},
    "CrowdedWhenLearning": {CROWD},
    "Normed": {MODES},
    "DropsOutWhenActing": {MODES},
}
OTHERS = [cell for cell in broken.CELLS if cell != "LSTM"]
# What a chaotic cell does after many steps, nothing can foretell.
FORESEEABLE = [cell for cell in OTHERS if cell != "Chaotic"]


@pytest.mark.thin(12)
@pytest.mark.parametrize(
    "block",
    [
        *REPORTED,
        "Leaky MinGRU",
        *(
            pytest.param(f"{defect} {cell}", marks=pytest.mark.slow)
            for cell in OTHERS
            for defect in REPORTED
            if defect != "ForgetsWhenActing" and (defect, cell) != ("Leaky", "MinGRU")
        ),
    ],
)
def test_a_planted_defect_of_a_network_is_reported(block):
    assert REPORTED[block.partition(" ")[0]] <= failed_by_network(block, 0)


@pytest.mark.slow
@pytest.mark.parametrize("bptt_length", [pytest.param(0, marks=pytest.mark.slow), 5])
@pytest.mark.parametrize("cell", [pytest.param(it, marks=[] if it == "Stack" else pytest.mark.slow) for it in OTHERS])
def test_a_network_with_another_cell_passes_everything(cell, bptt_length):
    assert failed_by_network(f"sound {cell}", bptt_length) == set()


def test_a_cell_that_is_chaotic_is_compared_for_as_long_as_rounding_stays_small():
    subject = subject_of("sound Chaotic", rollout_length=300)
    finding = network.long(subject)
    assert finding.status is PASS, finding
    steps = int(re.search(r"over ([\d,]+) steps", finding.figure)[1].replace(",", ""))
    assert 5 < steps < subject.longest


@pytest.mark.slow
@pytest.mark.thin(4)
@pytest.mark.parametrize(
    ("block", "bptt_length", "rollout_length", "reported"),
    [
        ("Chunked", 0, 260, {LONG}),
        ("Limited", 0, 120, {LONG}),
        ("ForgetsInEvaluation", 0, 0, {MODES}),
        ("CrowdedWhenLearningMuch", 8, 128, {CROWD}),
    ],
)
@pytest.mark.parametrize("cell", ["LSTM", *(pytest.param(cell, marks=pytest.mark.slow) for cell in FORESEEABLE)])
def test_a_defect_that_shows_in_a_run_of_that_size_alone_is_reported(
    block, bptt_length, rollout_length, reported, cell
):
    sized = {"rollout_length": rollout_length}
    checks = [network.modes, network.long, network.crowd]
    subject, sound = (subject_of(f"{it} {cell}", bptt_length, **sized) for it in (block, "sound"))
    assert {check.name for check in checks if check(subject).status is FAIL} == reported
    assert {check(sound).status for check in checks} == {PASS}


@pytest.mark.slow
def test_the_longest_sequence_is_as_long_as_the_longest_episode():
    lasting = partial(broken.make, "Lasts", steps=37)
    assert [subject_of("sound", bptt, lasting).longest for bptt in (0, 5)] == [37, 5]
    limited = partial(GymnasiumEnv, "CartPole-v1", seed=0, backend="sync")
    assert subject_of("sound", 0, lambda batch_size, _: limited(batch_size=batch_size)).longest == 500


@pytest.mark.slow
def test_a_network_with_frozen_parameters_passes():
    subject = subject_of("sound")
    next(subject.network.parameters()).requires_grad_(False)
    checks = (network.gradients, network.slope, network.long)
    assert [check(subject).status for check in checks] == [PASS] * 3


@pytest.mark.slow
def test_a_network_whose_gradients_do_not_pass_through_its_memory_gets_a_warning():
    findings = {finding.name: finding for finding in network_checks(subject_of("Detaches"))}
    finding = findings.pop(network.slope.name)
    assert finding.status is WARN, finding
    assert re.fullmatch(r"finite differences over 8 steps: relative Δ 0\.\d", finding.figure)
    assert {it.status for it in findings.values()} == {PASS}


def test_rows_are_compared_in_batches_as_large_as_those_of_training():
    finding = network.crowd(subject_of("sound", parallel=200))
    assert finding.status is PASS
    assert "in batches of 200" in finding.figure


@pytest.mark.slow
@pytest.mark.thin(6)
@pytest.mark.parametrize("steps", [1, 8, 16, 32, 64, 10**9])
def test_leaks_are_found_whatever_the_length_of_episodes(steps, monkeypatch):
    monkeypatch.setattr(subjects, "PATIENCE", 5)
    make_env = partial(broken.make, "Lasts", steps=steps)
    assert network.leaks(subject_of("sound", 0, make_env)).status is PASS
    assert network.leaks(subject_of("Leaky", 0, make_env)).status is FAIL


def test_the_view_moves_until_an_episode_begins_within_it():
    """Every rollout of 64 steps begins with an episode, if no steps were played between."""
    subject = subject_of("sound", 0, partial(broken.make, "Lasts", steps=32))
    assert subjects.resets(subject.rollout).any()


@pytest.mark.slow
@pytest.mark.parametrize(("block", "why"), [("Single", "RuntimeError"), ("BeginsSingle", "ConfigError: its memory ch")])
def test_a_network_that_computes_in_float32_only_passes_and_the_output_says_so(block, why):
    findings = {finding.name: finding for finding in network_checks(subject_of(block))}
    precise = findings.pop("it computes in float64")
    assert precise.status is WARN
    assert precise.figure.startswith(f"checked in float32, with wider tolerances: {why}")
    assert {finding.status for finding in findings.values()} == {PASS}


# The check that must find each, and a part of what it must say.
PLANTED = [
    ("Unseeded", environment.repeats, "differs in a second environment"),
    ("NoisyLater", environment.repeats, "differs in a second environment"),
    ("GlobalStream", environment.repeats, "not if the global streams of random, NumPy and torch are seeded"),
    ("SeedsGlobalStream", environment.copies, "differs beside a copy"),
    ("SharedByCopies", environment.copies, "differs beside a copy"),
    ("LeaksOverTruncations", environment.repeats_later, "when the same seed comes again after a truncation"),
    ("LeaksOverTerminations", environment.repeats_later, "when the same seed comes again"),
    ("Curriculum", environment.repeats_later, "when the same seed comes again"),
    ("EndlessCurriculum", environment.repeats_later, "when the same seed comes again after a cut of episode"),
    ("LeaksAfterLong", environment.repeats_later, "when the same seed comes again after the end of episode"),
    ("HeedsOneSeed", environment.repeats_later, "when the same seed comes again"),
    ("ChangesActions", environment.actions, "were changed"),
    ("Endless", environment.ends, "0 ended within"),
    ("SavesItsLeak", environment.repeats_later, "when the same seed comes again after a truncation"),
    ("SavesNoRandom", environment.restores, "after it was restored differs"),
    ("SavesAtFirst", environment.restores, "its state_dict fails in an episode"),
    ("LoadsItsOwn", environment.restores, "its load_state_dict fails with what another environment saved"),
    ("SavesNothing", environment.restores, "after it was restored differs"),
    ("SharesItsArray", environment.copies, "differs from that of an environment that is alone"),
    ("ChangesItsSpace", environment.fixed, "action_space was Discrete(4), and is Discrete(2)"),
    ("BeginsAllAlike", environment.varied, "at 0 of "),
    ("BeginsAllAtOnce", environment.apart, "an action showed at 0 of "),
    ("IgnoresItsLimit", environment.limited, "2 of 2 were not truncated then"),
    ("TerminatesAtItsLimit", environment.limited, "2 of 2 were not truncated then"),
    ("LimitsEarlier", environment.limited, "an episode is truncated after 2"),
    ("FirstForFinal", environment.final, "equal the next episode's first one"),
    ("StaleFinal", environment.final, "that a time limit ends show what the step before showed"),
    ("OutOfBounds", environment.observations, "is not within -1 to 1, after a reset"),
    ("OutOfBoundsLater", environment.observations, "is not within -1 to 1, at step"),
    ("NotANumber", environment.plays, "its observation is nan"),
    ("OutOfChoices", environment.observations, "3 is not within 0 to 2"),
    ("OutOfSeveralChoices", environment.observations, "3 is not within 0 to 2"),
    ("Exits", environment.plays, "SystemExit"),
    ("SaysNextStep", environment.plays, "info['final_obs']"),
    ("SaysNextStepAndPays", environment.plays, "gave a reward, 1"),
    ("SaysNextStepAndShowsNoFinal", environment.ghosts, "shows what episodes begin with"),
    ("SaysNextStepAndBeginsAnywhere", environment.ghosts, "must change nothing"),
]


@pytest.mark.thin(30)
@pytest.mark.parametrize(("name", "check", "said"), PLANTED)
def test_a_planted_defect_of_an_environment_is_reported(name, check, said):
    finding = check(stage_of(name))
    assert finding.status is FAIL, finding
    assert said in finding.figure
    assert finding.remedy


@pytest.mark.slow
def test_what_a_fault_of_its_own_ends_gets_no_other_remedy():
    findings = list(env_checks(partial(broken.make, "EarnsNotANumber"), SHORT))
    assert [it.name for it in findings if it.status is FAIL] == ["it plays"]
    ended = [it for it in findings if "its reward is nan" in it.figure and it.status is UNCHECKED]
    assert {it.name for it in ended} >= {
        it.name for it in (environment.repeats_later, environment.ends, environment.final)
    }
    assert {it.remedy for it in ended} == {"Fix that first."}


@pytest.mark.slow
def test_drawing_that_changes_what_is_played_is_reported():
    names = ("DrawnByChance", "DrawsColours", "Drawn", "Undrawable")
    drawn = {name: partial(broken.make, name, render_mode="rgb_array") for name in names}
    stages = [Stage(partial(broken.make, name), SHORT, make_drawn=make) for name, make in drawn.items()]
    moves, begins_otherwise, only_looks, fails = map(environment.drawing, stages)
    assert (moves.status, moves.figure) == (FAIL, "the answer to step 1 differs if it is drawn")
    assert (begins_otherwise.status, begins_otherwise.figure) == (FAIL, "the first observation differs if it is drawn")
    assert (only_looks.status, only_looks.figure) == (PASS, "none of 61 answers differs")
    assert fails is environment.drawing(stage_of("Drawn")) is None


@pytest.mark.filterwarnings("ignore:.*missing AutoresetMode")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("SaysNothingOfSameStep", "an end comes with info['final_obs']"),
        ("SaysNothingAndPaysLate", "an end comes with info['final_obs']"),
        ("SaysNothingAndShowsNoFinal", "does not show what episodes begin with"),
        ("SaysNothingAndBeginsAnywhere", "changes what follows"),
    ],
)
def test_a_vector_form_that_does_not_say_when_it_resets_and_cannot_be_taken_for_next_step_is_reported(name, said):
    (finding,) = env_checks(partial(broken.make, name), SHORT)
    assert (finding.name, finding.status) == (environment.ghosts.name, FAIL)
    assert said in finding.figure
    assert "'autoreset_mode': AutoresetMode.SAME_STEP" in finding.remedy


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "check", "said"),
    [
        ("BlankFinal", environment.final, "that a time limit ends show one and the same, other steps "),
        ("KnowsTwoSeeds", environment.seeds, "6 of 8 seeds draw what another one does"),
    ],
)
def test_what_may_be_a_defect_gets_a_warning(name, check, said):
    finding = check(stage_of(name))
    assert finding.status is WARN, finding
    assert said in finding.figure
    assert check(stage_of("Walk")).status is PASS


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("Rows", PASS, r"changed that row in [1-9]\d* of \d+ trials, others in 0$"),
        ("ShowsLate", PASS, r"changed that row in [1-9]\d* of \d+ trials, others in 0$"),
        ("BeginsAllRows", FAIL, r"(\d+) of \1 rows that went on showed another observation after a reset of others$"),
        ("RollsRewards", FAIL, r"trials, others in [1-9]\d*$"),
        ("SharesActions", WARN, r"trials, others in [1-9]\d*, which random numbers may explain$"),
        ("DrawsWhatItNeeds", WARN, r"others in [1-9]\d*, which random numbers may explain$"),
    ],
)
def test_rows_of_an_own_batch_that_disturb_each_other_are_reported(name, status, said):
    finding = environment.rows(Stage(partial(broken.rows, name), SHORT))
    assert finding.status is status, finding
    assert re.search(said, finding.figure), finding


@pytest.mark.slow
def test_an_environment_that_shows_one_choice_is_played():
    make = partial(GymnasiumEnv, "FrozenLake-v1", seed=1, backend="sync")
    stage = Stage(lambda batch_size, _: make(batch_size=batch_size), SHORT)
    assert stage.play.stayed > stage.play.moved == 0
    assert environment.plays(stage).status is PASS


@pytest.mark.slow
def test_an_own_batch_that_heeds_no_seed_gets_a_warning():
    finding = environment.repeats(Stage(partial(broken.rows, "OneSeed"), SHORT))
    assert (finding.status, finding.remedy[:33]) == (WARN, "Seed your random generator with `")
    assert finding.figure.endswith("but all seeds play the same episodes")


@pytest.mark.slow
def test_a_sound_batch_of_ones_own_passes_whatever_its_state_is_called():
    findings = list(env_checks(partial(broken.rows, "Rows"), SHORT))
    assert {it.status for it in findings} == {PASS}, findings
    assert {environment.repeats_later.name, environment.restores.name} <= {it.name for it in findings}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["OfThisProcess", pytest.param("OrdersASet", marks=pytest.mark.slow)])
def test_what_depends_on_the_process_is_reported(name):
    finding = environment.processes(stage_of(name))
    assert finding.status is FAIL
    assert "differs in another process" in finding.figure


@pytest.mark.slow
def test_what_cannot_be_played_again_is_reported(monkeypatch):
    monkeypatch.setattr(broken.FailsWithCompany, "made", 0)
    stage = stage_of("FailsWithCompany")
    assert environment.plays(stage).status is PASS
    finding = environment.repeats(stage)
    assert (finding.status, finding.figure[:40]) == (FAIL, "in a second environment, it went on for ")
    assert "the port is taken" in finding.figure
    assert environment.processes(stage).status is UNCHECKED


@pytest.mark.slow
def test_a_copy_that_cannot_be_played_is_reported(monkeypatch):
    stage = stage_of("Walk")
    stage.require_repetition()
    play = Play.step

    def step(self, action=None):
        if self.seed == 1:
            self.fault = "it raised RuntimeError: no map for this seed"
        return play(self, action)

    monkeypatch.setattr(Play, "step", step)
    finding = environment.copies(stage)
    assert (finding.status, finding.figure[:41]) == (FAIL, "a copy with another seed could not go on:")


@pytest.mark.slow
def test_what_cannot_be_played_in_another_process_is_reported():
    finding = environment.processes(stage_of("FailsElsewhere"))
    assert (finding.status, finding.figure[:38]) == (FAIL, "in another process, it went on for 1 o")
    assert "no licence for another process" in finding.figure


@pytest.mark.slow
@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("Endless", environment.final),
        ("NeverEndsTogether", environment.final),
        ("NeverEndsTogether", environment.ghosts),
    ],
)
def test_where_no_episode_ends_what_needs_an_end_is_not_checked(name, check):
    finding = check(Stage(partial(broken.make, name), SHORT, whole_episodes=False))
    assert finding.status is UNCHECKED
    assert re.search(r"no episode ended within [\d,]+ random steps", finding.figure)
    # A rollout_length ends no episode, which this needs to see.
    assert "max_episode_steps" in finding.remedy
    assert "rollout_length" not in finding.remedy
    assert finding.remedy


@pytest.mark.slow
def test_a_play_goes_on_until_an_episode_ends():
    stage = Stage(partial(broken.make, "Lasts", steps=700), SHORT)
    assert stage.play.ends == 0
    assert environment.final(stage).status is PASS
    assert environment.ends(stage).figure == "1 ended within 701 random steps"


class Ends(gymnasium.Wrapper):
    """Says in its own way how an episode ends, which lasts so many steps at most."""

    def __init__(self, env, steps, how):
        super().__init__(env)
        self.steps, self.how = steps, how

    def reset(self, **given):
        self.clock = 0
        return super().reset(**given)

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        self.clock += 1
        is_over = self.clock == self.steps
        return observation, reward, terminated or is_over * self.how == 1, truncated or is_over * self.how == 2, info


@pytest.mark.thin(3)
@pytest.mark.parametrize(("steps", "how", "is_said"), [(5, 1, True), (5, 2, False), (20, 1, False)])
def test_episodes_that_are_terminated_as_by_a_time_limit_are_pointed_out(steps, how, is_said):
    def make(batch_size, name):
        wrapper = partial(Ends, steps=steps, how=how)
        return GymnasiumEnv("CartPole-v1", batch_size, seed=1, backend="sync", wrappers=[wrapper])

    finding = environment.ends(Stage(make, SHORT))
    assert finding.status is PASS
    told = ", each terminated after 5 (a time limit must truncate instead)"
    assert finding.figure.endswith(told) is is_said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Endless", "NeverEndsTogether"])
def test_where_random_play_ends_no_episode_some_are_cut_to_see_what_memory_is_then(name, monkeypatch):
    monkeypatch.setattr(subjects, "SECONDS", 0)
    subject = subject_of("sound", 0, partial(broken.make, name))
    finding = network.forgets(subject)
    assert finding.status is PASS
    assert "where episodes were cut after 24 steps: random play ended none" in finding.figure
    assert subjects.resets(subject.rollout).all()
    assert int(subject.rollout.age.max()) == 23
    assert network.forgets(subject_of("BeginsWithOnes", 0, partial(broken.make, name))).status is FAIL
    assert network.leaks(subject_of("Leaky", 0, partial(broken.make, name))).status is FAIL


def test_the_time_limit_of_an_own_vector_form_ends_its_episodes():
    with closing(broken.make("KeepsItsLimit", 2, "verify")) as env:
        assert time_limit(env) == 6
    with closing(broken.make("NextStep", 2, "verify")) as env:
        assert time_limit(env) is None


def test_a_time_limit_that_cannot_be_tried_is_not_checked():
    finding = environment.limited(stage_of("TakesLongLimits"))
    assert finding.status is UNCHECKED
    assert re.match(r"it can't be built with max_episode_steps=3: ValueError: too short", finding.figure)


@pytest.mark.slow
def test_an_environment_that_ends_no_episode_repeats_after_episodes_that_are_cut():
    finding = environment.repeats_later(stage_of("Endless"))
    assert finding.status is PASS
    assert re.search(r"midway, after \d+ episodes that were cut$", finding.figure)


def test_where_episodes_end_none_is_cut():
    finding = network.forgets(subject_of("sound"))
    assert (finding.status, "cut" in finding.figure) == (PASS, False)


@pytest.mark.parametrize(
    ("ghosts", "ends"), [(False, ([2, 3, 6, 7, 10, 11], [3, 7, 11])), (True, ([2, 4, 7, 9], [4, 9]))]
)
def test_an_episode_that_is_cut_begins_anew_and_a_step_spent_on_a_reset_puts_that_off(ghosts, ends):
    env = Cut(Script([[3, 9], [20]], ghosts=ghosts), 4)
    env.reset()
    told = []
    for _ in range(12):
        step = env.step(torch.zeros(2, dtype=torch.int64))
        told.append(step.ended.tolist())
        observation = env.reset(step.ended) if step.ended.any() else step.observation
    assert tuple([at for at, ended in enumerate(column) if ended] for column in zip(*told, strict=True)) == ends
    assert observation[:, 2].tolist() == ([2.0, 2.0] if ghosts else [0.0, 0.0])


@pytest.mark.slow
def test_the_programs_of_an_environment_end_with_the_other_process(tmp_path):
    ids = tmp_path / "ids"
    assert elsewhere(partial(broken.make, "Simulates", ids=str(ids)), 20, 1)
    programs = [int(line) for line in ids.read_text().split()]
    assert len(programs) == 2 * BATCH
    for program in programs:
        # Whoever adopts what was killed may take a moment.
        assert waited_until(lambda program=program: not is_running(program)), program


def is_running(program: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{program}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def waited_until(holds, seconds=5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return held


@pytest.mark.slow
def test_a_sound_environment_is_the_same_in_another_process():
    assert environment.processes(stage_of("Walk")).status is PASS


# Twins of those with a defect. Another process is tried above.
SOUND = ["Walk", "Mixed", "Steered", "Asks", "SameStep", "NextStep", "KeepsItsLimit", "SavesAll"]


@pytest.mark.thin(8)
@pytest.mark.parametrize("name", SOUND)
def test_a_sound_environment_passes_everything(name, monkeypatch):
    monkeypatch.setattr(environment, "CHECKS", [it for it in environment.CHECKS if it is not environment.processes])
    assert failed_by_env(partial(broken.make, name)) == set()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["vector", "sync"])
def test_a_sound_environment_passes_with_any_backend(backend, monkeypatch):
    monkeypatch.setattr(environment, "CHECKS", [it for it in environment.CHECKS if it is not environment.processes])

    def make_env(batch_size, purpose):
        return GymnasiumEnv("CartPole-v1", batch_size, seed=stream(0, purpose), backend=backend)

    assert failed_by_env(make_env) == set()


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("NestedMask", "Use env.action_mask=state.action_mask."), ("InfoMask", "Use env.action_mask=info.")],
)
def test_a_mask_that_nobody_uses_is_a_warning_with_the_remedy(name, remedy):
    finding = environment.masks(stage_of(name))
    assert (finding.status, finding.remedy) == (WARN, remedy)
    assert environment.masks(stage_of("Asks")).status is PASS
    assert environment.masks(stage_of("Walk")) is None


def test_a_wrapper_that_keeps_statistics_is_named_with_the_remedy():
    finding = environment.statistics(stage_of("Normalizes"))
    assert (finding.status, finding.figure.partition(":")[0]) == (WARN, "Normalizes")
    assert "algorithm.normalize_reward=true" in finding.remedy
    assert environment.statistics(stage_of("Walk")) is None


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="has other numbers for rounding")
def test_what_is_changed_for_the_whole_process_is_a_warning_that_names_it():
    finding = environment.process_settings(stage_of("Rounds"))
    assert finding.status is WARN
    assert finding.figure == "it changes RLIMIT_NOFILE (resource.setrlimit), how the processor rounds"
    assert environment.process_settings(stage_of("Walk")).status is PASS


@pytest.mark.slow
def test_bytes_that_are_hardly_seen_are_a_warning():
    finding = environment.bytes_used(stage_of("DimBits"))
    assert (finding.status, finding.figure) == (WARN, "none of 0 to 255 is more than 1")
    assert "Box(0, 1, …, uint8)" in finding.remedy
    assert environment.bytes_used(stage_of("Bits")).status is PASS
    assert environment.bytes_used(stage_of("Walk")) is None


@pytest.mark.slow
def test_what_repeats_nowhere_is_not_blamed_for_its_copies_and_processes():
    stage = stage_of("Unseeded")
    for check in (environment.repeats_later, environment.copies, environment.processes):
        assert check(stage).status is UNCHECKED


def test_an_environment_that_ends_the_program_does_not_end_the_checks():
    stage = stage_of("Exits")
    for check in (environment.plays, environment.repeats_later):
        finding = check(stage)
        assert finding.status is FAIL
        assert "SystemExit" in finding.figure


def test_what_cannot_be_played_is_said_once():
    (finding,) = env_checks(partial(broken.make, "Raises"), SHORT)
    assert finding.status is FAIL
    assert "ZeroDivisionError" in finding.figure


def test_a_network_is_not_fed_with_what_is_not_in_its_space():
    assert not is_playable([environment.observations(stage_of("OutOfChoices"))])
    assert is_playable([environment.observations(stage_of("Walk"))])


def test_a_run_of_fixed_length_needs_no_ends():
    assert environment.ends(Stage(partial(broken.make, "Endless"), SHORT, whole_episodes=False)) is None


@pytest.mark.slow
def test_a_final_observation_that_is_common_is_no_fault():
    finding = environment.final(stage_of("Blind"))
    assert finding.status is WARN
    assert "nothing can be concluded" in finding.figure


def test_slow_episodes_are_not_called_endless():
    stage = Stage(partial(broken.make, "Endless"), Budget(seconds=0, least=10, wait=0.01))
    finding = environment.ends(stage)
    assert finding.status is UNCHECKED
    assert "time was over" in finding.figure


def test_a_slow_environment_is_checked_with_fewer_steps(monkeypatch):
    clock = iter(range(10**6))
    for module in "replay", "repetition", "stage":
        monkeypatch.setattr(f"seqrl.verify.{module}.perf_counter", lambda: next(clock))
    stage = Stage(partial(broken.make, "Walk"), Budget(seconds=0, least=640, slow=20))
    findings = [measure(stage) for measure in environment.CHECKS]
    assert stage.play.steps == BATCH * stage.least < BATCH * 30
    assert findings[0].figure.endswith("; 1,280 are usual, but it is slow")
    assert {finding.status for finding in findings if finding} == {PASS}


def test_a_time_limit_ends_slow_episodes():
    make_env = partial(GymnasiumEnv, "Pendulum-v1", seed=0, backend="sync")
    stage = Stage(lambda batch_size, _: make_env(batch_size=batch_size), Budget(seconds=0, least=10, wait=0))
    finding = environment.ends(stage)
    assert (finding.status, finding.figure) == (PASS, "its time limit ends them after 200 steps")


def test_the_last_line_counts_what_holds_and_what_was_not_checked():
    findings = [Finding("a", PASS, "1"), Finding("b", FAIL, "2", "mend"), Finding("c", UNCHECKED, "3", "wait")]
    findings.append(Finding("d", WARN, "4", "look"))
    assert count_of(findings) == "  2 of 4 hold, 1 failed, 1 not checked, 1 with a warning"
    remedies = [line_of(finding).partition("-> ")[2] for finding in findings]
    assert remedies == ["", "mend", "wait", "look"]


@pytest.mark.slow
def test_what_is_found_is_told_before_the_next_check_begins():
    make, told = partial(broken.make, "Walk"), []
    for finding in islice(env_checks(make, SHORT, begin=lambda name: told.append(f"{name}?")), 3):
        told.append(finding.name)
    assert told[0] == "it plays?"
    for at, name in enumerate(told):
        if not name.endswith("?"):
            assert told[at - 1] == f"{name}?"


def test_help_is_about_the_checks(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["seqrl-verify", "--help"])
    main()
    printed = capsys.readouterr().out
    assert "Exit code 0 if everything" in printed
    for check in (*environment.CHECKS, *network.CHECKS):
        assert check.name in printed


def verified(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_program(folder, "-m", "seqrl.verify", *arguments)


@pytest.fixture
def beside_the_work(tmp_path):
    """A folder with a user's module and a configuration file for its network."""
    (tmp_path / "mine.py").write_text(Path(broken.__file__).read_text())
    (tmp_path / "conf" / "network").mkdir(parents=True)
    (tmp_path / "conf" / "network" / "own.yaml").write_text("_target_: mine.network\nuse_lstm: true\nblock: sound\n")
    return tmp_path


@pytest.mark.slow
def test_the_program_passes_sound_parts_and_writes_no_files(beside_the_work):
    before = sorted(beside_the_work.rglob("*.y*"))
    sound = ["--config-dir", "conf", "network=own", "trust=[mine]", "env.id=mine:broken/Walk-v0"]
    done = verified(beside_the_work, *sound)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("  pass  ") == 27
    assert done.stdout.endswith("  27 of 27 hold\n")
    assert sorted(beside_the_work.rglob("*.y*")) == before
    assert not (beside_the_work / "outputs").exists()


@pytest.mark.slow
def test_the_program_reports_defects_with_remedies_and_exit_code_1(beside_the_work):
    planted = ["trust=[mine]", "env.id=mine:broken/Unseeded-v0", "network.block=Leaky"]
    done = verified(beside_the_work, "--config-dir", "conf", "network=own", *planted)
    assert done.returncode == 1
    assert "FAIL         environment repeats with seed and actions" in done.stdout
    assert "-> Draw all randomness from self.np_random" in done.stdout
    assert "FAIL         nothing leaks across a reset" in done.stdout


@pytest.mark.slow
def test_the_program_does_not_feed_a_network_with_what_is_not_in_its_space(beside_the_work):
    done = verified(beside_the_work, "trust=[mine]", "env.id=mine:broken/OutOfChoices-v0")
    assert done.returncode == 1
    assert "FAIL         observations lie in their space" in done.stdout
    assert "NOT CHECKED  the network" in done.stdout
    assert "unexpected" not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_faulty_configuration_gets_the_same_answer_as_from_seqrl_train(tmp_path):
    done = verified(tmp_path, "env.id=Nope-v0")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("seqrl: error: env.id: no environment is registered as 'Nope-v0'")


RANKS = ["env=tmaze", "env.corridor_length=4", "network.hidden_size=8", "network.lstm_hidden_size=8", "processes=2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "broken", "status"),
    [
        ([], False, PASS),
        ([], True, FAIL),
        # Its own vector form seeds all environments together.
        (["env=gymnasium", "env.id=CartPole-v1", "env.backend=vector", "rollout_length=32"], False, WARN),
    ],
)
def test_processes_are_compared_with_one(monkeypatch, more, broken, status):
    if broken:
        assembled = ranks.assembled

        @contextmanager
        def uneven(*arguments):
            with assembled(*arguments) as together:
                # In this process alone.
                monkeypatch.setattr(base, "VALUE_DECAY", 0.5)
                yield together

        monkeypatch.setattr(ranks, "assembled", uneven)
    words = [word for word in RANKS if not (more and word.startswith("env"))]
    finding = ranks.processes_check(composed(*more, *words))(None)
    assert finding.status is status, finding
