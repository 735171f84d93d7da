"""Checks that a play repeats bit for bit: in a new environment, later in the same one, beside a copy, elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

import numpy as np
import torch

from seqrl.envs import BatchedEnv, EnvError, FaultyEnvError
from seqrl.machine import perf_counter
from seqrl.verify.findings import Measured, Status, UncheckedError, check, holds
from seqrl.verify.layers import beneath, episodes
from seqrl.verify.play import BATCH, Play
from seqrl.verify.replay import (
    continued,
    difference,
    elsewhere,
    global_streams_seeded,
    opened,
    resumed,
    retold,
    rewound,
    stopped_early,
)
from seqrl.verify.stage import Stage

HEED_THE_SEED = "Seed your random generator with `seed`, or all runs and evaluations play the same few episodes."


@check(
    "environment repeats with seed and actions",
    "Draw all randomness from self.np_random, which reset(seed=…) seeds, and keep all state in self, not in the class.",
)
def repeats(stage: Stage) -> Measured:
    """Two new environments with the same seed answer the same actions alike."""
    play, again = stage.play, stage.again
    if (index := difference(play, again)) is not None:
        figure = f"{_when(play, index)} differs in a second environment{_from_global_streams(stage, index)}"
        return holds(False, figure)
    if early := stopped_early(play, again, again.fault):
        return holds(False, f"in a second environment, {early}")
    with stage.new("verify another seed") as env:
        other = retold(env, min(len(play.answers), 600))
    figure = f"none of {len(again.answers):,} answers differs"
    if difference(play, other) is not None:
        return holds(True, figure)
    if len(stage.resets.firsts) > BATCH:
        return Measured(Status.WARN, f"{figure}, but all seeds play the same episodes", HEED_THE_SEED)
    return holds(True, f"{figure}; the seed changes nothing")


def _when(play: Play, index: int) -> str:
    return f"the answer to step {play.clock[index]:,}" if play.clock[index] else "the first observation"


def _from_global_streams(stage: Stage, index: int) -> str:
    replayed = []
    for _ in range(2):
        with global_streams_seeded(), stage.new() as env:
            replayed.append(retold(env, index + 1))
    if difference(*replayed) is not None:
        return ""
    return ", but not if the global streams of random, NumPy and torch are seeded: it draws from one of these"


@check(
    "the same seed repeats later, too",
    "reset(seed=…) must begin anew: forget the episode before, however it ended, count no episodes, and heed every "
    "seed, not only the first.",
)
def repeats_later(stage: Stage) -> Measured | None:
    """Taken back to its first seed after a truncation, a termination and midway, it begins the same episodes again."""
    stage.require_repetition()
    play, after, others = stage.play, [], 0
    steps = len(play.answers) // 2
    with stage.new() as env:
        live = Play(env)
        state = env.state_dict()
        if state is None or ("env" in state and state["env"] is None):
            return None
        for moment, wanted in MOMENTS.items():
            live.steps_until(steps // 6, lambda _: False)
            if not live.steps_until(steps if getattr(play, moment, True) else 0, wanted):
                continue
            live = rewound(env, state, 2 * len(play.answers) // 3)
            after.append(SAID[moment])
            if (index := difference(play, live)) is not None or live.fault:
                if index is None:
                    stage.require_no_fault()
                differs = live.fault if index is None else f"{_when(stage.play, index)} differs"
                return holds(False, f"{differs} when the same seed comes again {after[-1]}")
    for others, (differs, how) in enumerate(_after_others(stage), 1):
        if differs:
            return holds(False, f"{differs} when the same seed comes again after {how} of episode {others}")
    if not after:
        stage.require_no_fault()
        raise UncheckedError("no moment came to give it the same seed again")
    if others:
        was_cut = f" that {'were' if others > 1 else 'was'} cut" if how != THE_END else ""
        after.append(f"after {others} episode{'s' if others > 1 else ''}{was_cut}")
    return holds(True, f"none of {len(live.answers):,} answers differs {', '.join(after)}")


def _after_others(stage: Stage) -> Iterator[tuple[str, str]]:
    """What differs if the first seed comes again right after the end of the first episode, of the second, and so on.

    An episode may leave something to the very next one, and only if it was of some length, or ended in some place. One
    that does not end is cut, and from then on all that do not end soon. Also yields which of the two it was.
    """
    began, steps, how = perf_counter(), 0, THE_END if stage.play.ends else A_CUT
    with stage.new() as env:
        # Nothing is in progress, and nothing is played when it is restored.
        state = env.state_dict()
        assert state is not None
        live = continued(Play(env), FEW_ANSWERS)
        answers = live.answers[:]
        for number in range(1, MOST_OTHERS + 1):
            live.random = np.random.default_rng(number)
            for end in range(1, number + 1):
                # The last waits for the reset by which the first seed comes.
                live.holds = end == number
                patience = stage.least if how == THE_END else CUT_AFTER
                if not live.steps_until(patience, lambda play: _ended(play, "ended")):
                    how = A_CUT
                    if not live.holds:
                        live.begin()
            steps += live.steps
            live = rewound(env, state, FEW_ANSWERS)
            index = difference(answers, live)
            if live.fault and index is None:
                stage.require_no_fault()
            yield live.fault if index is None else f"{_when(live, index)} differs", how
            took = perf_counter() - began
            # Resets may be slow, and where episodes are cut there are many.
            if took > stage.budget.slow or (took > max(10, 3 * stage.budget.seconds) and how == A_CUT):
                return
            if steps > BATCH * stage.least and took > stage.budget.seconds:
                return


def _ended(play: Play, how: str) -> bool:
    return play.last is not None and bool(getattr(play.last, how).any())


# Episodes after which the first seed comes again, if there is time, and answers to compare each time.
MOST_OTHERS, FEW_ANSWERS = 50, 60
# How an episode was over, and steps to wait for an end once one had to be cut.
THE_END, A_CUT, CUT_AFTER = "the end", "a cut", 20
# Moments at which the first seed comes again, by the name that their count has in `Play`; midway needs none.
SAID = {"truncated": "after a truncation", "terminated": "after a termination", "midway": "midway"}
MOMENTS: dict[str, Callable[[Play], bool]] = {
    "truncated": lambda play: _ended(play, "truncated"),
    "terminated": lambda play: _ended(play, "terminated"),
    "midway": lambda play: not _ended(play, "ended"),
}


@check(
    "a saved episode goes on",
    "Put all that decides what comes next into state_dict, the random stream self.np_random too; or have no "
    "state_dict: then an episode's actions are played again.",
)
def restores(stage: Stage) -> Measured | None:
    """A new environment that restores its state midway answers as if nothing had happened."""
    stage.require_repetition()
    steps = min(stage.least, len(stage.play.answers)) // 4
    with stage.new() as env, stage.new() as other:
        live = opened(env)
        live.steps_until(steps, lambda _: False)
        live.steps_until(steps, MOMENTS["midway"])
        twin = resumed(live, other)
        if twin is None:
            return _not_restored(live.env, other)
        for _ in range(steps):
            action = live.action()
            if not (live.step(action) and twin.step(action.clone())):
                break
    if fault := live.fault or twin.fault:
        stage.require_no_fault()
        return holds(False, fault)
    if (index := difference(live, twin)) is not None:
        return holds(False, f"answer {index + 1:,} after it was restored differs")
    return holds(True, f"none of {len(live.answers):,} answers after it was restored differs")


def _not_restored(saved: BatchedEnv, restored: BatchedEnv) -> Measured | None:
    """What an environment that says its own state could not do; None if none was asked for, as with a vector form."""
    ours, its = episodes(saved), episodes(restored)
    if ours is not None and ours.unsaved:
        return holds(False, "its state_dict fails in an episode, after it worked at the first reset")
    if its is not None and its.begins_anew:
        return holds(False, "its load_state_dict fails with what another environment saved")
    return None


@check(
    "copies do not disturb each other",
    "Keep state in self, not in the class or the module, and draw randomness from self.np_random.",
)
def copies(stage: Stage) -> Measured:
    """It answers the same alone, and while a copy with another seed is played between its steps."""
    stage.require_repetition()
    with stage.new() as env, stage.new("verify another seed") as copy:
        other = Play(copy, seed=1)
        replayed = retold(env, len(stage.play.answers) // 2, beside=other.step)
    if (index := difference(stage.play, replayed)) is not None or replayed.fault:
        differs = replayed.fault if index is None else f"{_when(stage.play, index)} differs"
        return holds(False, f"{differs} beside a copy with another seed")
    if other.fault:
        return holds(False, f"a copy with another seed could not go on: {other.fault}")
    if (step := _differs_alone(stage)) is not None:
        return holds(False, f"the answer to step {step:,} differs from that of an environment that is alone")
    return holds(True, f"none of {len(replayed.answers):,} answers differs beside a copy with another seed")


@check(
    "drawing changes nothing",
    "Let render only look: neither it nor a render_mode may draw from self.np_random or move anything, or films show "
    "other episodes than those that are evaluated.",
)
def drawing(stage: Stage) -> Measured | None:
    """It answers the same built to be drawn, and drawn before each step; left out if it cannot be drawn."""
    stage.require_repetition()
    plain = partial(stage.make_env, BATCH, "verify")
    make = partial(stage.make_drawn, BATCH, "verify") if stage.make_drawn else plain
    try:
        with closing(plain()) as env, closing(make()) as other, closing(make()) as another:
            # Another backend may play other episodes.
            undrawn, pictures = retold(env if env.backend == other.backend else another, FEW_DRAWN), list[object]()
            drawn = retold(other, FEW_DRAWN, beside=lambda: pictures.append(other.render()))
    except (EnvError, FaultyEnvError):
        # A film says why there is none.
        return None
    if all(picture is None for picture in pictures):
        return None
    if (index := difference(undrawn, drawn)) is not None or drawn.fault:
        return holds(False, drawn.fault if index is None else f"{_when(undrawn, index)} differs if it is drawn")
    return holds(True, f"none of {len(drawn.answers):,} answers differs")


# Answers with a picture before each; to draw them may be slow.
FEW_DRAWN = 60


def _differs_alone(stage: Stage) -> int | None:
    """The first step at which the first of several environments answers otherwise than alone; None if it never does."""
    with stage.new() as env, closing(stage.make_env(1, "verify")) as single:
        if not hasattr(beneath(env), "envs"):
            # Those of a vector form may draw from one stream.
            return None
        several, alone = opened(env), opened(single)
        for step in range(min(stage.least, len(stage.play.answers)) // 2):
            if not torch.equal(several.observation[:1], alone.observation):
                return step
            action = several.action()
            # Resets included.
            if not (several.step(action) and alone.step(action[:1].clone())):
                break
    return None


@check(
    "another process plays the same",
    "Let nothing depend on the process: its global random streams, its id, the order of a set, the clock.",
)
def processes(stage: Stage) -> Measured:
    """It answers the same in new processes, which hash texts in other ways."""
    stage.require_repetition()
    whole = len(stage.play.answers)
    for hash_seed, answers in enumerate([whole, *[min(whole, FEW_ELSEWHERE)] * 2], 1):
        replayed, fault = elsewhere(stage.make_env, answers, hash_seed)
        if (index := difference(stage.play, replayed)) is not None:
            return holds(False, f"{_when(stage.play, index)} differs in another process")
        if len(replayed) < answers and (early := stopped_early(stage.play, replayed, fault)):
            return holds(False, f"in another process, {early}")
    return holds(True, f"none of {whole:,} answers differs")


# Answers to compare with further processes, which show whether the order of a set matters.
FEW_ELSEWHERE = 200
