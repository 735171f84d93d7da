"""`python -m seqrl.envs`: what it lists, with and without optional packages."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces

import tests.envs.clocks  # noqa: F401  # registers the environments of OWN
from seqrl.envs import __main__ as program
from seqrl.envs import suites
from seqrl.envs.suites import KNOWN_RETURNS, SUITES, Suite

BUILT_IN, CLASSIC, _, *OTHERS = SUITES
OWN = Suite("clocks", "tests", "seqrl[clocks]", "test/", "tests.envs.clocks")


def listed(monkeypatch, capsys, *words, of=(CLASSIC,)):
    """Exit code, output lines and error lines."""
    monkeypatch.setattr(program, "SUITES", [BUILT_IN, *of])
    monkeypatch.setattr(sys, "argv", ["seqrl-envs", *words])
    code = 0
    try:
        program.main()
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()


def columns(line):
    return " ".join(line.split())


def test_tasks_are_listed_with_spaces_and_known_returns(monkeypatch, capsys):
    code, lines, errors = listed(monkeypatch, capsys)
    assert (code, errors) == (0, [])
    shown = [columns(line) for line in lines]
    assert shown[0] == "built-in tasks env=ID"
    assert "masked_cartpole Box(2) -> Discrete(2) best 500, memoryless 50" in shown
    assert "tmaze Box(2) -> Discrete(4) best 1, memoryless 0.5" in shown
    assert "classic control env.id=ID" in shown
    assert "Pendulum-v1 Box(3) -> Box(1)" in shown
    assert not any(line.startswith("gymnasium ") for line in shown)


def test_known_returns_are_of_built_in_tasks():
    tasks = {name for name in KNOWN_RETURNS if "-v" not in name}
    assert {"masked_cartpole", "tmaze", "memory_chain", "repeat_first"} <= tasks <= set(BUILT_IN.ids())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["maze"], ["built-in tasks env=ID", "tmaze Box(2) -> Discrete(4) best 1, memoryless 0.5"]),
        (["CLASSIC", "pend"], ["classic control env.id=ID", "Pendulum-v1 Box(3) -> Box(1)"]),
        (
            ["test/clock"],
            ["clocks env.id=tests.envs.clocks:ID 'trust=[tests.envs.clocks]'", "test/Clock-v0 Box(2) -> Discrete(3)"],
        ),
    ],
)
def test_words_filter_the_list(monkeypatch, capsys, words, expected):
    code, lines, _ = listed(monkeypatch, capsys, *words, of=(CLASSIC, OWN))
    assert (code, [columns(line) for line in lines]) == (0, expected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tmase"], "no environment matches 'tmase'. Did you mean tmaze? Leave the words out to list all."),
        (["maze", "zzzzzzz"], "no environment matches 'maze zzzzzzz'. Leave the words out to list all."),
        (["--all"], "unknown option --all. Use words, such as popgym, or --help."),
    ],
)
def test_words_that_match_nothing_and_unknown_options_end_in_one_line(monkeypatch, capsys, words, message):
    assert listed(monkeypatch, capsys, *words) == (2, [], [f"seqrl: error: seqrl.envs: {message}"])


def test_a_suite_that_is_not_installed_is_listed_with_the_command_that_installs_it(monkeypatch, capsys):
    monkeypatch.setattr(suites, "is_installed", lambda package: package == "seqrl")
    _, lines, _ = listed(monkeypatch, capsys, of=OTHERS)
    missing = [columns(line) for line in lines if "not installed" in line]
    assert missing[0] == "popgym not installed: pip install 'seqrl[popgym]'"
    assert missing[-1] == "envpool not installed: pip install 'seqrl[envpool]'"
    assert len(missing) == len(OTHERS)
    assert len(listed(monkeypatch, capsys, "popgym", of=OTHERS)[1]) == 1


def test_large_suites_build_only_the_environments_asked_for(monkeypatch, capsys):
    built = []
    monkeypatch.setattr(Suite, "spaces", lambda suite, id: built.append(id) or (spaces.Discrete(2), spaces.Discrete(2)))
    large = replace(OWN, many=True)
    _, lines, _ = listed(monkeypatch, capsys, of=(large,))
    assert columns(lines[-1]) == "clocks python -m seqrl.envs clocks lists them"
    assert built == []
    listed(monkeypatch, capsys, "test/seeded", of=(large,))
    assert built == ["test/Seeded-v0"]


def test_an_environment_that_cannot_be_built_or_imported_says_why_in_its_line(monkeypatch, capsys):
    _, lines, _ = listed(monkeypatch, capsys, "nomodule", of=(OWN,))
    assert columns(lines[1]).startswith("test/NoModule-v0 cannot be built: ModuleNotFoundError: No module named")
    monkeypatch.setattr(suites, "is_installed", lambda package: True)
    _, lines, _ = listed(monkeypatch, capsys, of=(replace(OWN, package="no_such_package"),))
    assert columns(lines[-1]).startswith("clocks cannot be imported: ModuleNotFoundError: No module named 'no_such")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise SystemExit('no display')", "SystemExit: no display (exits.py:4)"),
        ("class Gone(BaseException): pass\nraise Gone('no licence')", "Gone: no licence (exits.py:5)"),
    ],
)
def test_a_suite_that_prints_and_exits_when_it_is_imported_is_named_and_the_others_are_listed(
    tmp_path, monkeypatch, capsys, text, said
):
    (tmp_path / "exits.py").write_text(f"import sys\nprint('banner')\nprint('banner', file=sys.stderr)\n{text}\n")
    monkeypatch.syspath_prepend(tmp_path)
    exits = replace(OWN, name="exits", package="exits")
    code, lines, errors = listed(monkeypatch, capsys, of=(exits, OWN))
    assert (code, errors) == (0, [])
    assert [columns(line) for line in lines if "cannot be imported" in line] == [f"exits cannot be imported: {said}"]
    assert not any("banner" in line for line in lines)
    assert columns(lines[-1]).startswith("test/")


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (spaces.Discrete(5, start=2), "Discrete(5)"),
        (spaces.Box(0, 255, (84, 84, 3), np.uint8), "Box(84, 84, 3)"),
        (spaces.MultiDiscrete([2, 3]), "MultiDiscrete(2, 3)"),
        (spaces.MultiDiscrete([3] * 52), "MultiDiscrete([3] * 52)"),
        (spaces.MultiBinary(4), "MultiBinary(4)"),
        (spaces.Text(5), "Text"),
        (
            spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, ())])}),
            "Dict(a: Discrete(3), b: Tuple(Discrete(2), Box()))",
        ),
    ],
)
def test_spaces_are_described_in_a_few_words(space, expected):
    assert program.brief(space) == expected


def test_long_spaces_leave_room_for_actions_in_a_hundred_columns():
    long = spaces.Dict({f"part{index}": spaces.Box(0, 1, (100, 100)) for index in range(9)})
    for name in ("x", "popgym-NoisyPositionOnlyCartPoleMedium-v0", "tmaze"):
        for action in (spaces.Discrete(7), long):
            line = program.entry(name, long, action)
            assert len(line) == program.WIDTH or "best" in line
            assert " -> D" in line


@pytest.mark.slow
def test_a_closed_pipe_causes_no_traceback():
    # `true` exits before the first line.
    command = f"{sys.executable} -m seqrl.envs classic | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
