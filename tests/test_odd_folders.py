"""Folders of runs may be anybody's, half written or damaged: the odd ones are named, and the others count."""

import csv
import errno
import json
import os
import shutil
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import yaml

from seqrl.api.listing import listed
from seqrl.config import begun
from seqrl.config.resolvers import point_folder
from seqrl.errors import CheckpointError
from seqrl.files import read_yaml
from seqrl.report.__main__ import main
from seqrl.report.findings import shown
from seqrl.report.runs import by_task, find, short
from seqrl.report.tables import csv_of
from seqrl.run import policy
from seqrl.sweeps import Command, Sweep
from seqrl.text import printable
from seqrl.tune.trials import Trial
from tests.test_report import put

ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202e\x9b"
BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
GOOD = {"env_steps": 100, "rollout/return_mean": 1.0}


def facts(**other: object) -> bytes:
    return json.dumps({"status": "finished", "overrides": [], "result": 1.0} | other).encode()


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def sparse(path: Path) -> None:
    path.unlink()
    with path.open("wb") as file:
        file.truncate(2 * 2**30)


# What is put in the place of a file, and what is said of it.
MANIFESTS = [
    (b"", "is not JSON"),
    (b"[]", "is not a JSON object"),
    (b'"status"', "is not a JSON object"),
    (b'{"status": "fini', "is not JSON"),
    (b"\x00\xff\xfe\x80" * 100, "is not JSON"),
    (b"[" * 100_000, "is nested too deeply"),
    (b'{"status": "finished", "x": ' + b"[" * 300 + b"]" * 300 + b"}", "is nested too deeply"),
    (b"{}", "gives no status"),
    (facts(status=7), "gives status a value that no run has (got 7)"),
    (facts(status=["finished"]), "gives status a value"),
    (facts(overrides="seed=1"), "gives overrides a value"),
    (facts(overrides=[1, None]), "gives overrides a value"),
    (facts(seed="first"), "gives seed a value that no run has (got 'first')"),
    (facts(result="9"), "gives result a value"),
    (facts(result=10**400), "gives result a value"),
    (b'{"status": "finished", "result": ' + b"9" * 5000 + b"}", "is not JSON"),
    (b'{"status": "finished", "result": Infinity}', "gives result a value"),
    (b'{"status": "finished", "result": NaN}', "gives result a value"),
    (facts(exit_code="x"), "gives exit_code a value"),
    (facts(git="abc"), "gives git a value"),
    (facts(versions=[1]), "gives versions a value"),
    (facts(steps_per_second={}), "gives steps_per_second a value"),
    (fifo, "is not a regular file"),
    (link, "is a link"),
    (sparse, "is larger than"),
]
CONFIGURATIONS = [
    (BOMB.encode(), "uses YAML aliases, which no run writes"),
    (b"[1, 2]", "is not a mapping"),
    (b"a: [", "is not YAML"),
    (b"? [a]\n: 1", "is not YAML (line 1: found unhashable key)"),
    (b"<<: 1", "is not YAML"),
    (b"a: =", "is not YAML"),
    (b"\x00", "is not YAML"),
    (b"a: " + b"[" * 500 + b"]" * 500, "is nested too deeply"),
    (
        b"? " + b"k" * 10**5 + b"\n:\n" + b"".join(b"  %d: 0\n" % n for n in range(600)),
        "is far longer with its keys written out",
    ),
    (fifo, "is not a regular file"),
    (sparse, "is larger than"),
]
CURVES = [
    (b"[1, 2]\n", "line 1 is not a row of scalars. 1 of 21 lines are left out."),
    (json.dumps(GOOD | {"rollout/return_mean": "9"}).encode() + b"\n", "line 1 is not a row of scalars"),
    (json.dumps(GOOD | {"env_steps": None}).encode() + b"\n", "line 1 is not a row of scalars"),
    (json.dumps(GOOD | {"env_steps": 1e99}).encode() + b"\n", "line 1 is not a row of scalars"),
    (json.dumps(GOOD | {"env_steps": 10**400}).encode() + b"\n", "line 1 is not a row of scalars"),
    (b'{"env_steps": 1, "rollout/return_mean": ' + b"9" * 5000 + b"}\n", "line 1 is not a row of scalars"),
    (b'{"env_steps": 1, "rollou\n', "line 1 is not a row of scalars"),
    (b"\x00\xff\xfe\x80\n", "line 1 is not a row of scalars"),
    (fifo, "is not a regular file. The run counts without its curves."),
    (link, "is a link. The run counts without its curves."),
    (sparse, "is larger than 537 MB. The run counts without its curves."),
]


def spoil(path: Path, how: object) -> None:
    """Put something odd in the place of a file, or before the rows of a curve."""
    if callable(how):
        how(path)
    elif path.suffix == ".jsonl":
        path.write_bytes(how + path.read_bytes())
    else:
        path.write_bytes(how)


def left_out_beside_a_good_run(folder: Path, name: str, how: object) -> list[str]:
    """What is said of the run `odd`, whose file is spoiled, when only the run `good` is found."""
    put(folder / "good", 1.0)
    put(folder / "odd", 5.0)
    spoil(folder / "odd" / name, how)
    left_out: list[str] = []
    assert [run.folder.name for run in find([folder], left_out.append)] == ["good"]
    return left_out


@pytest.mark.parametrize(("how", "said"), MANIFESTS)
def test_a_run_with_an_odd_manifest_is_left_out_and_named(tmp_path, how, said):
    left_out = left_out_beside_a_good_run(tmp_path, "manifest.json", how)
    (line,) = left_out
    assert line.startswith(f"{tmp_path / 'odd' / 'manifest.json'}: {said}")
    assert line.endswith(". This run is left out.")
    # Those who run many must not stumble either.
    point_folder(str(tmp_path), 1, "x", ["x"])
    trial = Trial(0, [], {0: tmp_path / "odd"}, tmp_path / "0.txt")
    assert (trial.results, trial.ticks()) == ([], [])
    assert trial.error[1] in (1, 2)


def refuse_to_list(monkeypatch, folder: Path, number: int) -> None:
    """Have the system not tell what is in a folder, not even root."""

    def scandir(path):
        if str(path) == str(folder):
            raise OSError(number, os.strerror(number), str(path))
        return plain(path)

    plain = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_folder_that_cannot_be_read_is_named_as_there_may_be_runs_in_it(tmp_path, monkeypatch, number):
    put(tmp_path / "outputs" / "good", 1.0)
    put(tmp_path / "outputs" / "hidden" / "newer", 5.0)
    monkeypatch.chdir(tmp_path)
    hidden = Path("outputs") / "hidden"
    refuse_to_list(monkeypatch, hidden, number)
    why = f"{hidden}: cannot be read ({os.strerror(number)})"
    for named in (find, listed):
        left_out: list[str] = []
        assert [run.folder.name for run in named([Path("outputs")], left_out.append)] == ["good"]
        assert left_out == [f"{why}. Runs in it are left out."]
    shutil.rmtree("outputs/good")
    with pytest.raises(
        CheckpointError, match=rf"^latest: there is no run in outputs that can be read: {hidden} cannot"
    ):
        begun.named_run(Path("latest"))
    refuse_to_list(monkeypatch, hidden, errno.ENOENT)
    with pytest.raises(CheckpointError, match=r"^latest: there is no run in outputs\. Name"):
        begun.named_run(Path("latest"))


@pytest.mark.parametrize(("how", "said"), CONFIGURATIONS)
def test_a_run_with_an_odd_configuration_is_left_out_and_named(tmp_path, how, said):
    left_out = left_out_beside_a_good_run(tmp_path, "config.yaml", how)
    assert left_out[0].startswith(f"{tmp_path / 'odd' / 'config.yaml'}: {said}")
    with pytest.raises(CheckpointError, match=r"config\.yaml is not the configuration of a run: [^\n]+\.$"):
        policy.configuration(tmp_path / "odd")
    assert Trial(0, [], {0: tmp_path / "odd"}, tmp_path / "0.txt").ticks() == []


@pytest.mark.parametrize(("how", "said"), CURVES)
def test_odd_rows_are_left_out_and_named_and_the_run_counts(tmp_path, how, said):
    put(tmp_path / "odd", 5.0)
    spoil(tmp_path / "odd" / "metrics.jsonl", how)
    left_out: list[str] = []
    (run,) = find([tmp_path], left_out.append)
    (line,) = left_out
    assert line.startswith(f"{tmp_path / 'odd' / 'metrics.jsonl'}: {said}")
    assert run.score == 5.0
    assert len(run.returns) == (0 if callable(how) else 20)


@pytest.mark.slow
def test_of_rows_a_report_keeps_the_numbers_that_it_needs(tmp_path):
    put(tmp_path / "odd", 1.0)
    row = json.dumps(GOOD | {"x": [[]] * 10_000}) + "\n"
    (tmp_path / "odd" / "metrics.jsonl").write_text(row * 200)
    tracemalloc.start()
    (run,) = find([tmp_path])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(run.returns) == 200
    # A row alone takes half a megabyte when it is read.
    assert most < 40e6


def test_rows_beyond_reason_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("seqrl.report.runs.MOST_ROWS", 19)
    put(tmp_path / "odd", 5.0)
    left_out: list[str] = []
    (run,) = find([tmp_path], left_out.append)
    assert (run.score, len(run.returns)) == (5.0, 0)
    assert left_out == [
        f"{tmp_path / 'odd' / 'metrics.jsonl'}: has more than 19 rows. The run counts without its curves."
    ]


@pytest.mark.slow
def test_of_many_keys_that_differ_the_first_are_compared_and_the_rest_named(tmp_path, monkeypatch, capsys):
    for name, sign in (("a", ""), ("b", "-")):
        put(tmp_path / name, 1.0)
        (tmp_path / name / "manifest.json").write_bytes(facts(overrides=[f"k{n}={sign}{n + 1}" for n in range(600)]))
    (tmp_path / "b" / "config.yaml").unlink()
    monkeypatch.setattr("seqrl.report.runs.MOST_KEYS", 3)
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    main()
    assert "warning: 2 runs differ in 300 keys: only the first 3 are compared." in capsys.readouterr().err
    head = (tmp_path / "report" / "configurations.csv").read_text().partition("\n")[0]
    assert head.startswith("k0,k1,k2,runs,")


@pytest.mark.parametrize("text", ['=HYPERLINK("http://x")', "+1+cmd", "-2+3", "@SUM(1)", "\t=1"])
def test_what_a_spreadsheet_would_compute_is_a_text_in_a_table(text):
    head, row = csv.reader(csv_of([{"error": text, text: -1.5, "return": -2}]).decode().splitlines())
    assert (head, row) == (["error", f"'{text}", "return"], [f"'{text}", "-1.5", "-2"])


def test_half_a_line_at_the_end_is_a_run_that_was_killed(tmp_path):
    put(tmp_path / "0", 1.0)
    with (tmp_path / "0" / "metrics.jsonl").open("a") as file:
        file.write('{"env_steps": 600, "rollout/ret')
    left_out: list[str] = []
    (run,) = find([tmp_path], left_out.append)
    assert (len(run.returns), left_out) == (20, [])


@pytest.mark.slow
def test_a_report_on_every_odd_folder_at_once_is_written_and_shows_no_control_character(tmp_path, monkeypatch, capsys):
    odd = [(name, how) for name, all_of_it in
           (("manifest.json", MANIFESTS), ("config.yaml", CONFIGURATIONS), ("metrics.jsonl", CURVES))
           for how, _ in all_of_it]  # fmt: skip
    for number, (name, how) in enumerate(odd):
        put(tmp_path / f"{number}{ESCAPE}", 1.0, number, network=f"lstm{ESCAPE}")
        spoil(tmp_path / f"{number}{ESCAPE}" / name, how)
    for number in range(4):
        put(tmp_path / f"good{number}{ESCAPE}", 1.0, number, network=f"{number // 2}{ESCAPE}$\\frac$")
    manifest = tmp_path / f"good0{ESCAPE}" / "manifest.json"
    manifest.write_bytes(facts(status="failed", error=f"{ESCAPE}\ud800".encode("utf-8", "replace").decode(), seed=0))
    with (tmp_path / "commands.jsonl").open("w") as file:
        file.write(f'[]\n{{"command": 3}}\n{json.dumps({"command": ESCAPE, "begun": "2026"})}\n{{"comm')
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    main()
    said = capsys.readouterr()
    assert said.err.count("seqrl: warning: ") == len(odd)
    for text in (said.out, said.err, (tmp_path / "report" / "report.html").read_text()):
        assert not set(text) & set("\x1b\x07\x9b\u202e")
    assert r"\x1b[2J" in said.err
    assert "Left out: " in (tmp_path / "report" / "report.html").read_text()


def test_the_end_of_a_sweep_names_odd_folders_and_shows_no_control_character(tmp_path, capsys):
    from omegaconf import OmegaConf

    put(tmp_path / "0", 1.0)
    put(tmp_path / "1", 1.0)
    (tmp_path / "1" / "manifest.json").write_bytes(facts(status="failed", error=f"robot{ESCAPE}\nfell", exit_code=5))
    put(tmp_path / "2", 1.0)
    (tmp_path / "2" / "manifest.json").write_text("[]")
    sweep = Sweep()
    sweep._command = Command(tmp_path)
    sweep.on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    said = capsys.readouterr().out
    assert "  2: its manifest.json is not a JSON object. It is left out.\n" in said
    assert "sweep: 1 finished, 1 failed, in" in said
    assert r"  1: robot\x1b]0;owned\x07\x1b[2J\u202e\x9b" in said
    assert "\x1b" not in said


def test_a_folder_of_any_depth_hides_no_run_beside_it(tmp_path, monkeypatch):
    """Before Python 3.12, os.walk calls itself for each."""
    runs = [tmp_path / "a" / "run", tmp_path / "z"]
    for run in runs:
        run.mkdir(parents=True)
        (run / "manifest.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    os.mkdir("deep")
    os.chdir("deep")
    # Its path is still short enough for the system.
    for _ in range(1500):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(tmp_path)
    try:
        assert list(begun.run_folders(tmp_path, lambda *unread: pytest.fail(f"{unread}"))) == runs
    finally:
        subprocess.run(["rm", "-r", "deep"], check=True)


def test_aliases_are_refused_before_anything_grows(tmp_path):
    (tmp_path / "config.yaml").write_text(BOMB)
    with pytest.raises(ValueError, match="uses YAML aliases, which no run writes"):
        read_yaml(tmp_path / "config.yaml")


@pytest.mark.parametrize("value", [
    "!!bool x", "!!int ''", "!!float ''", "!!timestamp x", "!!set {a}", "!x y", "0b_", "0x_", "2001-99-99",
    "2001-01-01 00:00:00+99:99", f"0x{'f' * 5000}", "9" * 5000, f"1{':59' * 200}.5",
])  # fmt: skip
def test_a_value_that_cannot_be_read_is_named_with_its_line(tmp_path, value):
    (tmp_path / "config.yaml").write_text(f"seed: 0\nextra:\n  - {value}\n")
    for load in (read_yaml, begun.loaded):
        with pytest.raises(ValueError, match=r"^line 3: (holds a tag|looks like a number)"):
            load(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    "value", ["1e999", ".inf", "0_1", "0x" + "f" * 200, "2001-01-01", "!!str 5", "1.2.3", "0o7", "-._"]
)
def test_a_value_that_can_be_read_is(tmp_path, value):
    (tmp_path / "config.yaml").write_text(f"a: {value}\n")
    assert yaml.safe_load(read_yaml(tmp_path / "config.yaml"))
    assert begun.loaded(tmp_path / "config.yaml")


def test_what_is_shown_keeps_its_lines_and_letters():
    assert printable("naïve → 3·4\n\tend") == "naïve → 3·4\n\tend"
    assert printable("a\rb\x1b[0m\x85\ud800") == r"a\rb\x1b[0m\x85\ud800"


@pytest.mark.slow
def test_values_of_a_thousand_characters_or_lines_are_cut_where_they_are_drawn(tmp_path, monkeypatch):
    for number, value in enumerate(["\n" * 900 + "x", "z" * 1000, "W" * 999, "\t"]):
        put(tmp_path / f"{number}", 1.0, network__type=value, **{f"network__{'k' * 900}": number})
    (runs,) = by_task(find([tmp_path])).values()
    for run in runs:
        assert run.value("network.type").isprintable()
        assert len(shown("network.type", run.value("network.type"))) <= 60
    assert len(short("network." + "k" * 900)) <= 60
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    main()
    sizes = [png_size(path) for path in (tmp_path / "report").glob("*.png")]
    assert sizes
    assert max(max(size) for size in sizes) < 4000


def png_size(path):
    return struct.unpack(">2I", path.read_bytes()[16:24])
