import pytest

from seqrl.loggers import SCALARS
from seqrl.metrics.hints import WINDOW, Hints, faster

CALM = {
    "rollout/length_mean": 30.0,
    "memory/sequences": 16.0,
    "train/gradient_norm": 4.0,
    "train/gradient_clipped": 0.3,
}
SETTINGS = {"minibatches": 4, "bptt_length": 0, "rollout_length": 0, "grad_clip_norm": 5.0, "parallel": 4}


def hints_of(settings, row, updates=WINDOW):
    hints = Hints(**{**SETTINGS, **settings})
    return [text for _ in range(updates) for text in hints.new({**CALM, **row})]


@pytest.mark.parametrize(
    ("settings", "row", "fragments"),
    [
        ({}, {}, []),
        ({}, {"rollout/length_mean": 101.0}, ["episodes last 101 steps", "sequence=truncated"]),
        ({"rollout_length": 128}, {"rollout/length_mean": 101.0}, []),
        ({"bptt_length": 20}, {"rollout/length_mean": 500.0}, []),
        ({"bptt_length": 50, "rollout_length": 32}, {}, ["50 steps in rollouts of 32"]),
        ({}, {"memory/sequences": 3.0}, ["only 3 sequences", "algorithm.minibatches=4"]),
        ({}, {"train/gradient_clipped": 0.95}, ["95% of the gradients were clipped", "raise it"]),
        ({}, {"train/gradient_clipped": 0.0}, ["no gradient was clipped", "at most 4 in any update", "lower it"]),
        (
            {"grad_clip_norm": None},
            {"train/gradient_clipped": 0.0},
            ["gradients are not clipped", "grad_clip_norm=5.0"],
        ),
    ],
)
def test_what_the_figures_say_of_the_settings_is_said_once(settings, row, fragments):
    texts = hints_of(settings, row, updates=3 * WINDOW)
    assert len(texts) == bool(fragments)
    assert all(fragment in texts[0] for fragment in fragments)


@pytest.mark.parametrize(
    ("length", "updates", "progress", "rollout_length", "said"),
    [
        (500.0, 2, 0.1, 0, ["about 20 updates", "episodes of 500 steps", "rollout_length=128 makes about 78"]),
        (500.0, 4, 0.1, 0, []),
        (500.0, 1, 0.05, 0, []),
        (90.0, 2, 0.1, 0, []),
        # 128 steps would make hardly more.
        (200.0, 2, 0.1, 0, []),
        (500.0, 2, 0.1, 128, []),
        (500.0, 1, 1.0, 0, ["has had 1 update, as", "rollout_length=128 makes about 4."]),
    ],
)
def test_a_run_that_will_have_few_updates_is_told_so_early(length, updates, progress, rollout_length, said):
    hints = Hints(**{**SETTINGS, "rollout_length": rollout_length})
    told = hints.new({**CALM, "rollout/length_mean": length}, updates, 4 * int(updates * length), progress)
    texts = [it for it in told if "waits for whole" in it]
    assert len(texts) == bool(said)
    assert all(part in texts[0] for part in said)


def test_several_episodes_of_an_environment_make_one_long_rollout():
    hints = Hints(**{**SETTINGS, "parallel": 1})
    told = " ".join(hints.new({**CALM, "rollout/length_mean": 500.0}, 2, 4_000, 0.2))
    assert "about 10 updates" in told
    assert "makes about 156." in told


def test_a_hint_about_clipping_waits_until_it_is_sure():
    assert hints_of({}, {"train/gradient_clipped": 1.0}, updates=WINDOW - 1) == []


@pytest.mark.parametrize(
    ("slowest", "gradient_parts", "expected"),
    [
        (
            "environment",
            2,
            "processes=4, if that many cores are free; or a larger parallel; or env.backend=envpool, if",
        ),
        ("inference", 2, "a larger parallel"),
        (
            "update",
            2,
            "fewer algorithm.epochs, which learn less from each step; or algorithm.gradient_parts=4, if that",
        ),
        ("update", 4, "fewer algorithm.epochs"),
        ("update", 8, "fewer algorithm.epochs"),
        ("update", 1, "fewer algorithm.epochs"),
        ("evaluation", 2, "a larger evaluation.interval; or fewer evaluation.episodes"),
        ("other", 2, "fewer loggers; or a larger checkpoint_interval"),
        ("insight", 2, "a larger insight.interval"),
    ],
)
def test_the_slowest_part_decides_what_would_be_faster(slowest, gradient_parts, expected):
    shares = {"environment": 0.2, "inference": 0.2, "update": 0.2, "other": 0.2, slowest: 0.4}
    answer = faster(shares, gradient_parts, cores=4, env={"id": "CartPole-v1", "backend": "auto"})
    assert answer.startswith(expected)
    assert ("gradient_parts" in answer) == ("gradient_parts" in expected)


@pytest.mark.parametrize(
    "env",
    [
        {"corridor_length": 10},
        {"id": "mine:Env-v0", "backend": "auto"},
        {"id": "CartPole-v1", "backend": "envpool"},
        {"id": "CartPole-v1", "backend": "auto", "wrappers": [{"_target_": "gymnasium.wrappers.ClipAction"}]},
    ],
)
def test_what_envpool_cannot_play_or_plays_already_is_not_proposed_for_it(env):
    assert faster({"environment": 1.0}, 1, cores=2, env=env).endswith("; or a larger parallel")


def test_every_part_of_the_time_has_advice():
    parts = [name.removeprefix("time/").removesuffix("_share") for name in SCALARS if name.endswith("_share")]
    for part in set(parts) - {"idle"}:
        assert faster({part: 1.0}, 1, cores=2)
