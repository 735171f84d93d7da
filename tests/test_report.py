"""Reports on runs with known results."""

import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from seqrl.metrics.display import QuietConsole
from seqrl.report.__main__ import _folders, main
from seqrl.report.figures import _curve, draw
from seqrl.report.findings import findings, median
from seqrl.report.page import Section, page
from seqrl.report.runs import Study, by_task, find
from seqrl.report.tables import show
from tests.parts import room
from tests.programs import run_program

BPTT = "sequence_learning.bptt_length"
CLIP = "sequence_learning.grad_clip_norm"


def put(
    folder: Path,
    final: float,
    seed: int = 0,
    status: str = "finished",
    rows: int = 20,
    cut: float | None = None,
    first: float | None = None,
    **swept: object,
) -> None:
    """Write the folder of a run whose return rises from 0 to `final`.

    first   it rises from there, of episodes that return between -1 and 1; None: not known of which episodes
    cut   share of the gradient that was cut off; None: not measured
    """
    folder.mkdir(parents=True)
    keys = {name.replace("__", "."): value for name, value in swept.items()}
    config: dict = {"seed": seed, "algorithm": {"learning_rate": 0.001}}
    for key, value in keys.items():
        *path, last = key.split(".")
        node = config
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    facts = {"status": status, "overrides": [*(f"{k}={v}" for k, v in keys.items()), f"seed={seed}"], "platform": "x"}
    if status == "finished":
        facts |= {"result": final, "steps_per_second": 1000.0, "peak_memory_mb": 300.0}
    if status == "failed":
        facts |= {"error": "NotFiniteError: the loss is nan.", "exit_code": 4}
    (folder / "manifest.json").write_text(json.dumps(facts))
    steps = np.linspace(100, 100 * rows, rows)
    curve = [
        {"env_steps": int(s), "rollout/return_mean": final * s / steps[-1] + 1e-6 * seed,
         "time/elapsed_seconds": s / 1000, "time/steps_per_second": 1000.0, "train/gradient_clipped": 0.25,
         "train/gradient_norm": 1.0 + final,
         "memory/peak_mb": 300.0, **({"memory/gradient_cut": cut} if cut is not None else {})}
        for s in steps.tolist()
    ]  # fmt: skip
    if first is not None:
        for number, row in enumerate(curve):
            mean = first + (final - first) * number / (rows - 1)
            row |= {"rollout/return_mean": mean, "rollout/return_min": -1.0, "rollout/return_max": 1.0}
            row["rollout/episodes"] = 100 * (number + 1)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in curve))


def grid(folder: Path, seeds: int = 6) -> Path:
    """Runs in which bptt_length matters (5: half the return) and grad_clip_norm does not; noise by seed."""
    for bptt in (0, 5, 50):
        for clip in (1.0, 5.0):
            for seed in range(seeds):
                final = (0.5 if bptt == 5 else 0.95) + 0.01 * ((seed * 7 + bptt + int(clip)) % 5)
                swept = {BPTT.replace(".", "__"): bptt, CLIP.replace(".", "__"): clip}
                put(folder / f"{bptt}_{clip}_{seed}", final, seed, **swept)
    return folder


def report(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_program(Path.cwd(), "-m", "seqrl.report", *map(str, arguments))


def test_folders_are_read_in_the_order_of_their_numbers_whatever_their_names(tmp_path):
    for name in ("10_b", "9_a", "²_x", "٣_y"):
        put(tmp_path / name, 1.0)
    assert [run.folder.name for run in find([tmp_path])] == ["²_x", "٣_y", "9_a", "10_b"]


def test_a_copy_of_a_run_counts_once_and_is_named(tmp_path):
    for name in "ab":
        # Equal to the last digit, and two runs.
        put(tmp_path / name, 1.0)
        manifest = tmp_path / name / "manifest.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"id": name}))
    shutil.copytree(tmp_path / "a", tmp_path / "backup")
    said = []
    assert [run.folder.name for run in find([tmp_path], said.append)] == ["a", "b"]
    assert said == [f"{tmp_path}/backup: a copy of {tmp_path}/a. It is left out."]
    # The unfinished one is the copy, whatever it is called.
    manifest = tmp_path / "a" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("finished", "interrupted"))
    assert [run.folder.name for run in find([tmp_path])] == ["backup", "b"]
    # It goes on by itself.
    metrics = tmp_path / "backup" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace("0.25", "0.5").replace('"env_steps": ', '"env_steps": 9'))
    assert len(find([tmp_path])) == 3


def test_swept_keys_are_found_in_command_lines_and_configurations(tmp_path):
    put(tmp_path / "a", 1.0, network="lstm", algorithm__gamma=0.9)
    put(tmp_path / "b", 1.0, seed=1, network="mlp", algorithm__gamma=0.9)
    assert Study(find([tmp_path])).keys == ["network"]
    # A file of the user's own may change between two runs of the same command.
    config = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    config["algorithm"]["learning_rate"] = 0.1
    put(tmp_path / "c", 1.0, network="lstm", algorithm__gamma=0.9)
    (tmp_path / "c" / "config.yaml").write_text(yaml.safe_dump(config))
    assert Study(find([tmp_path])).keys == ["network", "algorithm.learning_rate"]


def test_a_run_of_an_older_version_did_what_was_done_before_there_was_a_key(tmp_path):
    for seed in range(3):
        put(tmp_path / str(seed), 1.0, seed, network="lstm")
    config = yaml.safe_load((tmp_path / "0" / "config.yaml").read_text())
    for seed, value in ((1, 0), (2, 64)):
        (tmp_path / str(seed) / "config.yaml").write_text(yaml.safe_dump(config | {"rollout_rewards": value}))
    study = Study(find([tmp_path]))
    assert study.keys == ["rollout_rewards"]
    assert {key: len(runs) for key, runs in study.groups.items()} == {(0,): 2, (64,): 1}
    # One that was refused before it had a configuration says nothing of it.
    put(tmp_path / "3", 1.0, 3, "failed", network="lstm")
    (tmp_path / "3" / "config.yaml").unlink()
    (tmp_path / "2" / "config.yaml").write_text(yaml.safe_dump(config))
    assert Study(find([tmp_path])).keys == []


def test_values_are_in_order_with_whole_episodes_last(tmp_path):
    for value in (10, 0, 5):
        put(tmp_path / str(value), 1.0, sequence_learning__bptt_length=value)
    assert Study(find([tmp_path])).levels(BPTT) == [5, 10, 0]


def test_a_real_difference_is_distinguished_from_noise(tmp_path):
    conclusions = findings(Study(find([grid(tmp_path)])))
    assert conclusions.chosen is not None
    verdicts = {(c.key, c.against): c.real for c in conclusions.comparisons}
    assert verdicts[BPTT, 5]
    assert not any(real for (key, against), real in verdicts.items() if (key, against) != (BPTT, 5))
    assert re.search(r"^Use bptt_length = .* is better than 5 \(by 0\.45\), p ≤ 0\.0\d\d", conclusions.recommendation)
    assert "grad_clip_norm" in conclusions.recommendation


def test_identical_runs_are_no_evidence(tmp_path):
    for clip in (5.0, 10.0):
        for seed in range(5):
            put(tmp_path / f"{clip}_{seed}", 0.1 * seed, seed, sequence_learning__grad_clip_norm=clip)
    conclusions = findings(Study(find([tmp_path])))
    (comparison,) = conclusions.comparisons
    assert comparison.same == 1
    assert not comparison.real
    assert "gives exactly the same runs as" in conclusions.recommendation


def test_identical_runs_do_not_make_other_comparisons_harder(tmp_path):
    for clip, better in ((1.0, 0.0), (5.0, 1.0), (10.0, 1.0)):
        for seed in range(5):
            put(tmp_path / f"{clip}_{seed}", better + 0.1 * seed, seed, sequence_learning__grad_clip_norm=clip)
    by = {c.against: c for c in findings(Study(find([tmp_path]))).comparisons}
    assert by[10.0].same == 1
    # 2 of the 252 ways to deal out ten seeds.
    assert by[1.0].p == pytest.approx(2 / 252)


def test_a_seed_counts_once_however_many_configurations_it_ran_in(tmp_path):
    # Three seeds prove nothing, even with eight configurations of each.
    for gamma in range(8):
        for bptt in (5, 50):
            for seed in range(3):
                name = f"{gamma}_{bptt}_{seed}"
                put(
                    tmp_path / name, 0.1 + bptt / 100, seed, algorithm__gamma=gamma, sequence_learning__bptt_length=bptt
                )
    (comparison,) = (c for c in findings(Study(find([tmp_path]))).comparisons if c.key == BPTT)
    assert comparison.seeds == (3, 3)
    assert comparison.p == pytest.approx(0.1)


def test_a_seed_counts_once_however_often_its_configuration_ran(tmp_path):
    for sweep in "ab":
        for seed in range(4):
            put(tmp_path / sweep / str(seed), 0.1 * seed + (sweep == "b") * 0.01, seed, first=0.0)
    once, twice = (findings(Study(find(folders))) for folders in ([tmp_path / "a"], [tmp_path / "a", tmp_path / "b"]))
    assert once.chosen.returns.high - once.chosen.returns.low == pytest.approx(
        twice.chosen.returns.high - twice.chosen.returns.low
    )
    assert float(twice.chosen.returns.value) == pytest.approx(float(once.chosen.returns.value) + 0.005)
    assert "over 4 runs" in once.recommendation
    assert "over 4 seeds, 8 runs" in twice.recommendation
    assert twice.chosen.progress == once.chosen.progress
    curves = [_curve([conclusions.chosen.runs])[1] for conclusions in (once, twice)]
    assert np.allclose(curves[0].high - curves[0].low, curves[1].high - curves[1].low, atol=1e-6)
    for sweep in "ab":
        shutil.rmtree(tmp_path / sweep / "1")
    alone = findings(Study([run for run in find([tmp_path]) if run.seed == 2])).chosen
    assert np.isnan(alone.returns.low)


def test_a_diverged_run_is_listed_last_with_what_it_reached_in_training(tmp_path, capsys):
    for rate, final, status in (1.0, 0.9, "failed"), (0.1, 0.5, "finished"), (0.2, 0.6, "finished"):
        put(tmp_path / str(rate), final, 0, status, algorithm__learning_rate=rate)
    conclusions = findings(Study(find([tmp_path])))
    assert conclusions.recommendation.startswith("The highest return has learning_rate = 0.2: final return 0.60")
    show(conclusions, QuietConsole())
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line[:4].strip() in ("0.1", "0.2", "1.0")]
    assert [row[0] for row in rows] == ["0.2", "0.1", "1.0"]
    assert rows[-1][1:5] == ["0/1", "in", "training", "0.90"]
    assert "in training 0.90</td>" in page([Section("", conclusions, draw(conclusions))], [], [], None)


def test_nothing_is_recommended_where_no_two_configurations_can_be_compared(tmp_path):
    put(tmp_path / "a", 1.0, 0, total_steps=22_000, algorithm__epochs=4)
    put(tmp_path / "b", 0.2, 0, total_steps=20_480, algorithm__epochs=2)
    said = findings(Study(find([tmp_path]))).recommendation
    assert re.match("The highest return has .*: final return 1.00 over 1 run; the best of 2 configurations.$", said)


def test_the_threshold_is_timed_where_it_is_reached(tmp_path):
    for seed in range(3):
        put(tmp_path / f"a{seed}", 1.0, seed, sequence_learning__bptt_length=0)
        put(tmp_path / f"b{seed}", 0.2, seed, sequence_learning__bptt_length=5)
    by = {group.point[0]: group for group in findings(Study(find([tmp_path])), threshold=0.5).groups}
    assert (by[0].reached, by[0].steps_to_threshold, by[0].seconds_to_threshold) == (3, 1000, 1.0)
    assert (by[5].reached, by[5].steps_to_threshold) == (0, np.inf)


def test_the_page_is_self_contained_and_the_tables_hold_the_numbers(tmp_path):
    done = report(grid(tmp_path / "sweep"), "--to", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    answer = re.search(r'class="answer">(.*?)</p>', page).group(1)
    assert answer.startswith("Use bptt_length = ")
    assert answer in done.stdout
    assert page.count("data:image/png;base64,") == 5
    for name in ("learning_curves", "final_return", "heat_map", "costs", "differences"):
        assert (tmp_path / "out" / f"{name}.png").stat().st_size > 5000
        assert (tmp_path / "out" / f"{name}.pdf").exists()
    with (tmp_path / "out" / "configurations.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    half = next(row for row in rows if row[BPTT] == "5" and row[CLIP] == "1.0")
    finals = [0.5 + 0.01 * ((seed * 7 + 6) % 5) for seed in range(6)]
    assert float(half["return_iqm"]) == pytest.approx(np.sort(finals)[1:5].mean())
    assert float(half["clipped_share"]) == 0.25
    with (tmp_path / "out" / "runs.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 36
    assert "36 runs: 36 finished" in done.stdout


@pytest.mark.slow
def test_runs_that_are_running_failed_or_not_started_are_reported_as_such(tmp_path, monkeypatch):
    put(tmp_path / "0", 1.0, 0, network="lstm")
    put(tmp_path / "1", 0.3, 1, "failed", network="lstm")
    put(tmp_path / "2", 0.5, 2, "running", rows=5, network="mlp")
    put(tmp_path / "3", 0.5, 3, "running", rows=1, network="mlp")
    with (tmp_path / "2" / "metrics.jsonl").open("a") as file:
        file.write('{"env_steps": 600, "rollout/ret')
    (tmp_path / "4").mkdir()
    put(tmp_path / "5", 1.0)
    (tmp_path / "5" / "manifest.json").write_text("[]")
    monkeypatch.setattr("seqrl.run.manifest.is_held", lambda folder: folder.name == "2")
    known = {run.folder.name: run for run in find([tmp_path])}
    assert {name: run.status for name, run in known.items()} == {
        "0": "finished", "1": "failed", "2": "running", "3": "killed",
    }  # fmt: skip
    assert known["1"].diverged
    assert known["2"].score == pytest.approx(0.5, abs=1e-4)
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    main()
    page = (tmp_path / "report" / "report.html").read_text()
    assert "1 finished, 1 failed, 1 running, 1 killed" in page
    assert "NotFiniteError: the loss is nan." in page


def test_runs_without_curves_are_compared_by_their_results(tmp_path):
    for clip, final in ((1.0, 0.1), (5.0, 0.9)):
        for seed in range(5):
            put(tmp_path / f"{clip}_{seed}", final + 0.01 * seed, seed, sequence_learning__grad_clip_norm=clip)
            (tmp_path / f"{clip}_{seed}" / "metrics.jsonl").unlink()
    (comparison,) = findings(Study(find([tmp_path]))).comparisons
    assert comparison.real
    assert comparison.same == 0


def test_unfinished_runs_are_neither_chosen_nor_compared(tmp_path):
    for seed in range(5):
        put(tmp_path / f"lstm{seed}", 0.5, seed, network="lstm")
        put(tmp_path / f"mlp{seed}", 0.9, seed, "pruned" if seed else "failed", network="mlp")
    conclusions = findings(Study(find([tmp_path])))
    assert conclusions.chosen.point == ("lstm",)
    assert conclusions.comparisons == []
    only = findings(Study([run for run in find([tmp_path]) if run.status == "pruned"]))
    assert only.recommendation.startswith("No run is finished; best training return so far: 0.90")


@pytest.mark.parametrize(
    ("finals", "learned"),
    [
        # A hundred episodes between -1 and 1 have a standard error of .1, and chance makes a gain of .2 of one in four.
        ({"lstm": 0.2, "mlp": 0.0}, False),
        ({"lstm": -0.9, "mlp": 0.0}, False),
        ({"lstm": 0.9, "mlp": 0.0}, True),
    ],
)
@pytest.mark.parametrize("seeds", [1, 3])
def test_where_no_configuration_gains_more_than_chance_makes_the_report_says_that_none_learned(
    tmp_path, finals, learned, seeds
):
    for network, final in finals.items():
        for seed in range(seeds):
            put(tmp_path / f"{network}{seed}", final / seeds**0.5, seed, first=0.0, network=network)
    said = findings(Study(find([tmp_path]))).recommendation
    if learned:
        assert said.startswith("The highest return has network = lstm: final return")
    else:
        best = max(finals, key=finals.get)
        assert said.startswith("None learned for certain: no training return rose by more than chance explains. ")
        assert f"The highest, network = {best}, went from 0.00 to {finals[best] / seeds**0.5:.2f}; " in said


def test_a_gain_that_chance_makes_of_one_among_many_configurations_is_not_taken_for_learning(tmp_path):
    gain = 0.3
    for length in range(10):
        put(tmp_path / f"{length}", 0.0 if length else gain, first=0.0, sequence_learning__bptt_length=length)
    study = Study(find([tmp_path]))
    assert findings(study).recommendation.startswith("None learned for certain: ")
    assert findings(Study(study.runs[:1])).recommendation.startswith("One configuration: ")


@pytest.mark.parametrize(
    ("finals", "status", "said"),
    [
        (
            {"lstm": 1.0, "mlp": 1.0},
            "finished",
            "All 2 configurations return the same: final return 1.00 over 1 run;",
        ),
        ({"lstm": 1.0, "mlp": 1.0, "gru": 0.5}, "finished", "2 of 3 configurations return the highest: final return"),
        ({"lstm": 1.0, "mlp": 0.9}, "finished", "The highest return has network = lstm: final return 1.00"),
        ({"lstm": 1.0, "mlp": 0.9}, "running", "The highest return so far has network = lstm: final return 1.00"),
    ],
)
def test_what_ties_is_not_called_the_highest_nor_is_what_is_over_called_so_far(tmp_path, finals, status, said):
    for rows, (network, final) in enumerate(finals.items(), 20):
        put(tmp_path / network, final, rows=rows, network=network)
    if status == "running":
        put(tmp_path / "other", 0.1, seed=1, status=status, rows=20, network="mlp")
    assert findings(Study(find([tmp_path]))).recommendation.startswith(said)


@pytest.mark.parametrize("told", ["rollout/episodes", "rollout/return_min"])
def test_where_a_curve_does_not_say_how_sure_it_is_nobody_says_that_none_learned(tmp_path, told):
    put(tmp_path / "lstm", 0.0, first=0.0, network="lstm")
    put(tmp_path / "mlp", 0.1, first=0.0, network="mlp")
    path = tmp_path / "mlp" / "metrics.jsonl"
    path.write_text(path.read_text().replace(told, "other"))
    assert findings(Study(find([tmp_path]))).recommendation.startswith("The highest return has network = mlp")


def test_runs_whose_every_episode_returns_the_same_have_not_learned(tmp_path):
    put(tmp_path / "run", -200.0, first=-200.0)
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text(path.read_text().replace('_min": -1.0', '_min": -200.0').replace('_max": 1.0', '_max": -200.0'))
    assert findings(Study(find([tmp_path]))).recommendation.startswith("None learned for certain: ")


def test_seeds_played_by_different_backends_belong_to_one_configuration(tmp_path):
    for seed, backend in enumerate(["sync", "async", "sync", "async"]):
        put(tmp_path / str(seed), 1.0, seed, network="lstm")
        with (tmp_path / str(seed) / "config.yaml").open("a") as file:
            file.write(f"env: {{backend: {backend}}}")
    (group,) = findings(Study(find([tmp_path]))).groups
    assert len(group.runs) == 4


@pytest.mark.parametrize(
    ("greedy", "episodes", "keys"),
    [
        ([True, False], [200, 200], ["evaluation.greedy"]),
        ([True, True], [200, 0], ["evaluation.greedy"]),
        ([True, "both"], [200, 200], []),
        ([True, True], [200, 50], []),
        ([True, False], [0, 0], []),
    ],
)
def test_runs_whose_results_were_measured_otherwise_are_no_seeds_of_one_configuration(tmp_path, greedy, episodes, keys):
    for seed, (how, count) in enumerate(zip(greedy, episodes, strict=True)):
        put(tmp_path / str(seed), 1.0, seed, network="lstm", evaluation__greedy=how, evaluation__episodes=count)
    assert Study(find([tmp_path])).keys == keys


def test_many_seeds_beat_one_with_the_same_return(tmp_path):
    put(tmp_path / "mlp", 1.0, network="mlp")
    for seed in range(4):
        put(tmp_path / f"lstm{seed}", 1.0, seed, network="lstm")
    assert findings(Study(find([tmp_path]))).chosen.point == ("lstm",)


def test_a_run_that_failed_before_it_had_a_configuration_is_listed(tmp_path):
    put(tmp_path / "0", 1.0, 0, "failed", network="lstm")
    (tmp_path / "0" / "config.yaml").unlink()
    (tmp_path / "0" / "metrics.jsonl").unlink()
    (run,) = find([tmp_path, tmp_path / "0"])
    assert (run.status, run.value("network"), run.seed) == ("failed", "lstm", 0)


def test_if_half_of_the_runs_arrive_the_median_is_the_slowest_of_these():
    assert median([1.0, 2.0, np.inf, np.inf]) == 2.0
    assert median([1.0, np.inf, np.inf]) == np.inf
    assert median([1.0, 2.0, np.nan]) == 1.5
    assert np.isnan(median([]))


@pytest.mark.thin(3)
@pytest.mark.parametrize("keys", [0, 1, 3])
def test_runs_are_grouped_by_whatever_was_swept(tmp_path, monkeypatch, keys):
    for number in range(2**keys * 3):
        point, seed = divmod(number, 3)
        swept = {
            name: f"<b>[/b]{point >> bit & 1}" for bit, name in zip(range(keys), ("a", "b__x", "c__y"), strict=False)
        }
        put(tmp_path / f"{number}", 1.0 + number, seed, **swept)
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path), "--to", str(tmp_path / "out")])
    main()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<b>" not in page
    assert (tmp_path / "out" / "heat_map.png").exists() == (keys > 1)
    if not keys:
        assert "One configuration: final return" in page


def test_latest_is_the_newest_run_under_outputs(tmp_path, monkeypatch, capsys):
    for number, started in enumerate([1.0, 3.0, 2.0]):
        put(tmp_path / "outputs" / str(number), 1.0)
        manifest = tmp_path / "outputs" / str(number) / "manifest.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"started": started}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report", "latest"])
    main()
    assert "1 run: 1 finished. Page: outputs/1/report/report.html" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[""], ["runs", "--to", " "], ["runs", "--to="]])
def test_a_folder_without_a_name_is_not_the_working_folder(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert re.fullmatch(r"seqrl: error: report: argument \S+: names no folder\. .*\n", capsys.readouterr().err)
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_a_full_disk_gets_one_line_that_names_the_file(tmp_path, monkeypatch, capsys):
    put(tmp_path / "a", 1.0)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        rf"seqrl: error: {tmp_path}/report/report\.html: No space left on device\. Free some space, or .*", line
    )
    assert not list((tmp_path / "report").iterdir())


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("limit", [1, 70_000], ids=["no file", "all but the page"])
def test_a_report_for_which_there_was_no_room_leaves_nothing_and_is_written_once_there_is(
    tmp_path, monkeypatch, capsys, limit
):
    put(tmp_path / "a", 1.0)
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    with room(limit), pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "report.html: File too large. Raise the limit on the size of a file" in capsys.readouterr().err
    assert not list((tmp_path / "report").iterdir())
    main()
    assert (tmp_path / "report" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.thin(3)
@pytest.mark.parametrize("files", [0, 1, 6])
def test_a_report_that_is_killed_while_it_is_written_can_be_written_again(tmp_path, files):
    put(tmp_path / "a", 1.0)
    kill = f"""
import os, signal, sys
replace, left = os.replace, [{files}]
def killing(*names):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    replace(*names)
os.replace = killing
sys.argv[1:] = [{str(tmp_path)!r}]
from seqrl.report.__main__ import _folders, main
main()
"""
    assert run_program(tmp_path, "-c", kill).returncode == -signal.SIGKILL
    assert len([it for it in (tmp_path / "report").iterdir() if it.suffix != ".tmp"]) == files
    assert report(tmp_path).returncode == 0


@pytest.mark.parametrize("pace", ["nan", "-5", "inf", "0", "often"])
def test_a_pace_that_is_none_gets_one_line(tmp_path, monkeypatch, capsys, pace):
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path), f"--watch={pace}"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "argument --watch: " in capsys.readouterr().err.splitlines()[-1]


def test_tasks_of_the_same_name_keep_their_own_runs(tmp_path):
    put(tmp_path / "a", 1.0, parallel=8, env__length=1)
    put(tmp_path / "b", 1.0, parallel=16, env__length=2)
    put(tmp_path / "c", 1.0, parallel=16, env__length=2, env__backend="sync")
    for name in "ab":
        # As if a file of the user's own had changed, which no override shows.
        manifest = tmp_path / name / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"env.length=', '"other='))
    tasks = by_task(find([tmp_path]))
    assert sorted(len(runs) for runs in tasks.values()) == [1, 2]


@pytest.mark.slow
def test_what_environments_told_at_the_end_of_episodes_has_a_column(tmp_path, monkeypatch):
    for number in range(4):
        folder = tmp_path / f"{number}"
        put(folder, 1.0, number % 2, network=("lstm", "mlp")[number // 2])
        facts = json.loads((folder / "manifest.json").read_text())
        told = {"info_evaluation_is_success": number / 4, "info_evaluation_words": "none"} if number else {}
        (folder / "manifest.json").write_text(json.dumps(facts | told))
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    main()
    for name, told in (("runs", ["", "0.25", "0.5", "0.75"]), ("configurations", ["0.25", "0.625"])):
        with (tmp_path / "report" / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert sorted(row["info_is_success"] for row in rows) == told
        assert "info_words" not in rows[0]


def test_tasks_are_called_by_their_names_and_those_of_one_name_by_what_tells_them_apart(tmp_path):
    put(tmp_path / "a", 1.0, env___target_="seqrl.envs.TMaze", env__corridor_length=10)
    put(tmp_path / "b", 1.0, env___target_="seqrl.envs.TMaze", env__corridor_length=20)
    put(tmp_path / "c", 1.0, env___target_="seqrl.envs.GymnasiumEnv", env__id="Pendulum-v1", env__hidden=[2])
    put(tmp_path / "d", 1.0, env___target_="seqrl.envs.GymnasiumEnv", env__id="my_module:Mine-v0")
    assert sorted(by_task(find([tmp_path]))) == [
        "Mine-v0", "masked_pendulum", "tmaze corridor_length 10", "tmaze corridor_length 20"
    ]  # fmt: skip


def test_each_task_has_a_folder_of_its_own_within_the_reports(tmp_path):
    tasks = [
        "Mine-v0 op <",
        "Mine-v0 op >",
        "mine-V0 op <",
        "..",
        ".",
        "-",
        "report.html",
        "REPORT.html",
        "ü",
        "a/../..",
        "b",
    ]
    folders = _folders(tmp_path, tasks)
    assert {str(folder.relative_to(tmp_path)).casefold() for folder in folders.values()} == {
        "mine-v0_op_", "mine-v0_op_-2", "mine-v0_op_-3", "task", "task-2", "task-3", "report.html-2", "report.html-3",
        "task-4", "a-..-", "b",
    }  # fmt: skip
    assert _folders(tmp_path, ["a task"]) == {"a task": tmp_path}


@pytest.mark.slow
def test_each_task_is_reported_separately(tmp_path, monkeypatch):
    for number in range(12):
        seed, which = divmod(number, 4)
        network, length = ("lstm", "mlp")[which % 2], (10, 20)[which // 2]
        final = 100.0 if length == 10 else 1.0 if network == "lstm" else 0.5
        put(tmp_path / f"{number}", final, seed, network=network, env__corridor_length=length)
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    main()
    page = (tmp_path / "report" / "report.html").read_text()
    assert re.findall(r'class="answer"><b>(.*?)</b>', page) == ["corridor_length 10", "corridor_length 20"]
    assert "The highest return has network = lstm: final return 1.00" in page
    assert (tmp_path / "report" / "corridor_length_20" / "learning_curves.png").exists()
    with (tmp_path / "report" / "corridor_length_20" / "runs.csv").open() as file:
        assert {row["return"] for row in csv.DictReader(file)} == {"1.0", "0.5"}


@pytest.mark.thin(2)
@pytest.mark.parametrize(
    ("folder", "message"),
    [("nowhere", "nowhere is not a folder. Name one that holds runs"), ("empty", "there are no runs in")],
)
def test_a_folder_without_runs_gets_one_line(tmp_path, folder, message):
    (tmp_path / "empty").mkdir()
    done = report(tmp_path / folder)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_settings_of_matplotlib_in_the_working_folder_are_not_obeyed(tmp_path):
    put(tmp_path / "run", 1.0)
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.size: 40\n")
    program = "import sys; sys.argv = ['report', '.']\nfrom seqrl.report.__main__ import main; main()\n"
    program += "from matplotlib import rcParams; assert (rcParams['text.usetex'], rcParams['font.size']) == (False, 10)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_it_starts_quickly_because_it_does_not_import_torch(tmp_path):
    put(tmp_path / "run", 1.0)
    program = f"import sys; sys.argv = ['report', {str(tmp_path)!r}]\n"
    program += "from seqrl.report.__main__ import main; main(); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.thin(2)
@pytest.mark.parametrize("measured", [True, False])
def test_what_each_bptt_length_cuts_off_is_drawn_beside_the_returns_if_it_was_measured(tmp_path, measured):
    for bptt, cut, final in ((0, 0.0, 0.9), (5, 0.4, 0.5), (50, 0.02, 0.9)):
        for seed in range(2):
            swept = {BPTT.replace(".", "__"): bptt}
            put(tmp_path / f"{bptt}_{seed}", final, seed, cut=cut if measured else None, **swept)
    report(tmp_path)
    page = (tmp_path / "report" / "report.html").read_text()
    assert (tmp_path / "report" / "gradient_cut.png").exists() == measured
    assert ("How far back gradients reach" in page) == measured
    rows = list(csv.DictReader((tmp_path / "report" / "runs.csv").read_text().splitlines()))
    assert {row["gradient_cut"][:4] for row in rows} == ({"0.0", "0.40", "0.02"} if measured else {""})


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the following arguments are required: folders"),
        (["outputs", "--treshold", "3"], "unrecognized arguments: --treshold 3"),
        (["outputs", "--watch=nan"], "argument --watch: must be between 0 and 1,000,000 seconds (got nan)"),
    ],
)
def test_a_wrong_word_gets_one_line(tmp_path, words, said):
    done = run_program(tmp_path, "-m", "seqrl.report", *words)
    line = f"seqrl: error: report: {said}. Run python -m seqrl.report --help for the arguments.\n"
    assert (done.returncode, done.stderr) == (2, line)


@pytest.mark.slow
def test_a_folder_whose_name_is_not_utf_8_does_not_end_the_report_of_all(tmp_path, monkeypatch, capsys):
    put(tmp_path / "a", 1.0)
    odd = tmp_path / os.fsdecode(b"b\xff")
    put(odd, 1.0, 1)
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path), str(odd)])
    main()
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 runs: 2 finished.")
    page, table = ((tmp_path / "report" / name).read_text(encoding="utf-8") for name in ("report.html", "runs.csv"))
    assert r"b\udcff" in page
    assert r"b\udcff" in table
