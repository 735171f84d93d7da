"""Values of the system's environment are shown nowhere, however they are written; all else stays as it is."""

import base64
import html
import json
import logging
import os
import pickle
import shlex
import time
import traceback
import unicodedata
from urllib.parse import quote, quote_plus

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from seqrl.config.hydra_errors import message_for
from seqrl.config.resolvers import register
from seqrl.config.secrets import secrets, variables
from seqrl.errors import ConfigError, EnvError, described
from seqrl.files import LogFile
from seqrl.run.manifest import Manifest
from seqrl.text import masks, names_secret, printable
from seqrl.text.masks import declassify, environment_read, masked, masked_data, show_path
from tests.programs import run_program
from tests.test_sweeps import MOODY, MOODY_ARGUMENTS, SIDE_BY_SIDE, sweep
from tests.test_train import TINY, train


@pytest.fixture(autouse=True)
def _forgets(monkeypatch):
    register()
    for name in ("_FROM_ENVIRONMENT", "_OPEN", "_SECRET", "_PATHS"):
        monkeypatch.setattr(masks, name, type(getattr(masks, name))())


def read(monkeypatch, value, words="${oc.env:MY_KEY}"):
    monkeypatch.setenv("MY_KEY", value)
    return OmegaConf.create({"key": words}).key


@pytest.mark.parametrize(
    ("key", "written", "is_refused"),
    [
        ("password", "${oc.env:MY_KEY}", False),
        ("password", "Bearer ${oc.env:MY_KEY}", False),
        ("password", "${oc.env:MY_KEY,null}", False),
        ("password", "${oc.env:NOT_THERE,${oc.env:MY_KEY}}", False),
        ("password", "${oc.decode:${oc.env:MY_KEY}}", False),
        ("api_key", "${oc.env:NOT_THERE,sandbox}", False),
        ("max_tokens", "${oc.decode:${oc.env:NOT_THERE,512}}", False),
        ("authorization", "AWS4-HMAC-SHA256 Credential=${oc.env:MY_KEY}", False),
        ("address", "https://${oc.env:MY_KEY}:x-oauth-basic@host/", False),
        ("password", "${oc.env:NOT_THERE,hunter2}", True),
        ("password", "${oc.env:NOT_THERE,73194731}", True),
        ("password", "${oc.env:MY_KEY,hunter2}", True),
        ("password", "x${oc.env:MY_KEY}hunter2", True),
        ("password", "${oc.decode:${oc.env:MY_KEY,hunter2}}", True),
        ("address", "https://${oc.env:USER,me}:${oc.env:MY_KEY}@host/", False),
        ("address", "https://${oc.env:MY_KEY}@host/", False),
        ("address", "https://${oc.env:USER,me}:hunter2@host/", True),
        ("address", "${oc.env:NOT_THERE,https://me:hunter2@host/}", True),
        ("address", "postgresql://me:letmein@${oc.env:MY_KEY}/db", True),
        ("address", "postgresql://me:${oc.env:MY_KEY}@host/db", False),
    ],
)
def test_what_is_typed_out_beside_a_variable_is_a_secret_as_it_would_be_alone(monkeypatch, key, written, is_refused):
    monkeypatch.setenv("MY_KEY", "Zx9-quuxle")
    assert bool([*secrets(OmegaConf.create({"env": {key: written}}))]) == is_refused


@pytest.mark.parametrize("name", [
    "dbpassword", "userPassword", "authtoken", "githubtoken", "SASToken", "myapikey", "password1", "password_2",
    "db_pass",
    "passcode", "api_key_prod", "secret_value", "private_key_pem", "credentials_json", "passwordHash",
])  # fmt: skip
def test_a_secret_is_known_by_its_name_however_the_words_are_joined(monkeypatch, name):
    assert [*secrets(OmegaConf.create({"env": {"kwargs": {name: "hunter22"}}}))]
    monkeypatch.setattr(masks, "_FROM_ENVIRONMENT", {})
    read(monkeypatch, json.dumps({"place": {name: "hunt2"}}))
    assert "hunt2" not in masked("no place for hunt2")


@pytest.mark.parametrize(
    "name",
    [
        "compass",
        "n_passes",
        "monkey",
        "pad_token",
        "padtoken",
        "pad_token_value",
        "special_token_2",
        "low_pass",
        "tokenizer",
        "pass",
    ],
)
def test_what_only_sounds_like_a_secret_is_none(name):
    assert not [*secrets(OmegaConf.create({"env": {"kwargs": {name: "hunter22"}}}))]


@pytest.mark.parametrize(
    ("text", "is_refused"),
    [
        ("postgresql://host/db?password=hunter22", True),
        ("https://h/x?token=abcdef123456", True),
        ("Server=x;Pwd=hunter22;", True),
        ("user:hunter22@host:5432/db", True),
        ("user:hunter22@db.host.org", True),
        ("minimax:3@0.5", False),
        ("module:Env@v0", False),
        ("max_tokens=128000", False),
        ("token=<pad>", False),
        ("https://h/x?token=${oc.env:MY_KEY}", False),
        ("module:Env-v0", False),
        ("image:tag@sha256:abcdef12", False),
        ("git@github.com:a/b", False),
        ("The password: swordfish", False),
        ("a=1;b=2", False),
    ],
)
def test_a_secret_within_a_text_that_is_typed_out_is_refused(monkeypatch, text, is_refused):
    monkeypatch.setenv("MY_KEY", "Zx9-quuxle")
    assert bool([*secrets(OmegaConf.create({"env": {"kwargs": {"place": text}}}))]) == is_refused


def test_a_long_name_is_soon_told_from_a_secrets():
    """A pattern that tries all ways to divide the digits would take for ever."""
    assert not names_secret("token" + "1" * 10_000 + "x")
    assert names_secret("token" + "1" * 10_000)


def test_a_log_is_masked_whatever_its_formatter(monkeypatch, tmp_path):
    monkeypatch.setattr(masks, "_FROM_ENVIRONMENT", {"Zx9-quuxle": "LICENCE"})
    log = LogFile(tmp_path / "train.log")
    log.setFormatter(logging.Formatter("%(message)s"))
    log.emit(logging.makeLogRecord({"msg": "no licence Zx9-quuxle"}))
    log.close()
    assert (tmp_path / "train.log").read_text() == "no licence ${oc.env:LICENCE}\n"


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    "value",
    [
        "hush-hush",
        "hüsh\\back\"quote's",
        "hush  two  spaces",
        "hush-line\n  hush-second\nx",
        "\thush\x1b[31m",
        "hush$1.+*",
        "hush/sh+ush=1&<2>",
    ],
)
@pytest.mark.parametrize("written", [
    str, repr, ascii, json.dumps,
    lambda it: json.dumps({"x": [it]}, ensure_ascii=False), lambda it: json.dumps(repr(it)),
    lambda it: f"ValueError: {it} is refused".splitlines()[0], lambda it: it.strip().splitlines()[-1],
    lambda it: " ".join(it.split()), html.escape, quote, quote_plus, lambda it: quote(it, safe=""),
    lambda it: f"https://me:{quote(it, safe='')}@host", shlex.quote, lambda it: quote(it, safe="").lower(), str.upper,
    lambda it: repr(it.encode()), lambda it: repr(KeyError(f'no login "{it}"')),
    lambda it: repr(repr(f"it's \"{it}\"")), lambda it: html.escape(html.escape(it)),
    lambda it: html.escape(it).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
    lambda it: json.dumps(it).replace("/", "\\/"), lambda it: yaml.safe_dump({"a": f"{it}\x07"}, width=1000),
    lambda it: unicodedata.normalize("NFD", it), lambda it: it.encode().hex().upper(),
])  # fmt: skip
def test_a_value_is_masked_however_it_is_written(monkeypatch, value, written):
    read(monkeypatch, value)
    shown = printable(written(value))
    hex_of_it = ("68757368", "68C3BC7368")
    for part in ("hush", "h\\xfcsh", "h\\u00fcsh", "hüsh", "h\\xc3\\xbcsh", "hu\u0308sh", *hex_of_it):
        assert part.lower() not in shown.lower()
    assert masked(masked(written(value))) == masked(written(value))


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("correct😀horse", json.dumps("correct😀horse")),
        ("correct😀horse", html.escape(json.dumps(json.dumps("correct😀horse")))),
        ("Straße-geheim", "STRASSE-GEHEIM"),
        ("ﬁne-Horse-battery", "fine-horse-battery"),
        ("p4ss&w0rd", "p4ss\\&w0rd"),
    ],
)
def test_what_a_character_becomes_that_has_no_other_case_or_no_four_digits_is_masked(monkeypatch, value, written):
    read(monkeypatch, value)
    shown = masked(f"no {written}.")
    assert "${oc.env:MY_KEY}" in shown
    assert not any(part in shown.lower() for part in ("correct", "horse", "stra", "geheim", "w0rd"))


WAYS = [
    str, repr, ascii, json.dumps, shlex.quote, html.escape, quote, quote_plus, lambda it: repr(it.encode()),
    lambda it: yaml.safe_dump({"a": it}, width=10**6), lambda it: json.dumps(it, ensure_ascii=False),
    lambda it: html.escape(it).replace("&#x27;", "&#39;"), lambda it: f"it's \"{it}\"",
]  # fmt: skip


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True)
@example("''", [shlex.quote] * 3)
@example("\\\n", [yaml.safe_dump, quote])
@given(st.text("aB0😀'\"\\/&<> +%$;#äß€\n\t-_", min_size=2, max_size=12), st.lists(st.sampled_from(WAYS), max_size=3))
def test_a_value_is_masked_though_it_is_escaped_several_times_in_several_ways(middle, ways):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "_FROM_ENVIRONMENT", {})
        read(patch, value := f"hushQ{middle}Zkept")
        for way in ways:
            value = way(value)
        assert not any(part in masked(value) for part in ("hushQ", "Zkept"))


@pytest.mark.thin(3)
@pytest.mark.parametrize("before", ["", "u", "us", "user:", "user"])
@pytest.mark.parametrize("after", ["", "x", "xy", "xyz"])
def test_a_value_is_masked_within_a_longer_text_in_base64(monkeypatch, before, after):
    read(monkeypatch, "hush-hush-hush")
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        shown = masked(encode(f"{before}hush-hush-hush{after}".encode()).decode())
        assert "${oc.env:MY_KEY}" in shown
        left = shown.replace("${oc.env:MY_KEY}", "").rstrip("=")
        # Letters that hold some bits of what is before or after.
        assert len(left) <= len(f"{before}{after}") * 8 / 6 + 2


def test_letters_of_the_other_case_are_the_same_in_a_long_value_alone(monkeypatch):
    read(monkeypatch, "Hush")
    assert masked("Hush HUSH hush") == "${oc.env:MY_KEY} HUSH hush"


def test_a_text_of_backslashes_is_masked_in_no_time(monkeypatch):
    read(monkeypatch, "\\'\\\"" * 50)
    began = time.process_time()
    masked("\\" * 300_000)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("how", ["decode", "create"])
def test_what_is_decoded_is_masked_leaf_by_leaf(monkeypatch, how):
    words = f"${{oc.{how}:${{oc.env:MY_KEY}}}}"
    value = read(monkeypatch, "{password: hush-hush, deep: [31337, hush2, true, abc]}", words)
    assert masked(repr(value)) == (
        "{'password': '${oc.env:MY_KEY}', 'deep': [${oc.env:MY_KEY}, '${oc.env:MY_KEY}', True, 'abc']}"
    )
    assert OmegaConf.create({"x": "${oc.decode:'[1234, 5678]'}"}).x == [1234, 5678]
    assert masked("1234 5678") == "1234 5678"


@pytest.mark.parametrize("written", [base64.b64encode, base64.urlsafe_b64encode, bytes.hex])
def test_a_value_is_masked_in_a_header(monkeypatch, written):
    read(monkeypatch, "hüsh??>hush!")
    header = written("hüsh??>hush!".encode())
    header = header if isinstance(header, str) else header.decode()
    assert masked(f"Bearer {header}").rstrip("=") == "Bearer ${oc.env:MY_KEY}"


@pytest.mark.slow
def test_a_warning_of_an_environment_is_masked(tmp_path):
    code = """
import warnings, gymnasium
from seqrl.config.program import forgiving_output
from seqrl.text.masks import read_environment
read_environment("MY_KEY", "hush-hush")
forgiving_output()
warnings.warn("is hush-hush old?")
gymnasium.logger.warn("no %s", "hush-hush")
"""
    said = run_program(tmp_path, "-c", code).stderr
    assert "UserWarning: is ${oc.env:MY_KEY} old?" in said
    assert "no ${oc.env:MY_KEY}" in said
    assert "hush" not in said


TELLS = """
import threading
import warnings
import gymnasium as gym
import numpy as np

class Tells(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1.0, 1.0, (1,)), gym.spaces.Discrete(2)

    def __init__(self, key):
        warnings.warn(f"deprecated key {key}")
        thread = threading.Thread(target=lambda: {}[key])
        thread.start()
        thread.join()
        self.key = key

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.clock = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.clock += 1
        return np.zeros(1, np.float32), 1.0, self.clock == 5, False, {}

    def __del__(self):
        raise RuntimeError(f"still logged in with {self.key}")

gym.register("Tells-v0", entry_point=Tells)
"""
TELLING = [*MOODY_ARGUMENTS[:-4], "env.id=tells:Tells-v0", "trust=[tells]", "episodes=1", "env.backend=sync"]
PROCESSES = {
    "one": ["seqrl.train", *TELLING],
    "a sweep's": ["seqrl.train", "-m", "seed=0,1", *SIDE_BY_SIDE, *TELLING, "sweep=s"],
    "ranks": ["seqrl.train", "processes=2", *TELLING],
    "verify's": ["seqrl.verify", "env.id=tells:Tells-v0", "trust=[tells]", "env.backend=sync", "processes=2"],
}


@pytest.mark.thin(2)
@pytest.mark.parametrize("whose", PROCESSES)
def test_no_process_that_seqrl_starts_shows_a_secret_or_a_traceback(tmp_path, whose):
    (tmp_path / "tells.py").write_text(TELLS)
    words = ["-m", *PROCESSES[whose], "+env.kwargs.key='${oc.env:MY_KEY}'"]
    done = run_program(tmp_path, *words, env={**os.environ, "MY_KEY": "hush-hush-hush"})
    said = done.stdout + done.stderr
    assert "deprecated key ${oc.env:MY_KEY}" in said
    assert "hush" not in said
    assert "Traceback" not in said
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"hush" in path.read_bytes() for path in files)


def test_a_message_is_masked_before_it_is_cut_and_before_its_spaces_go(monkeypatch):
    read(monkeypatch, "a\nhush-hush")
    assert "hush" not in described(ValueError("no a\nhush-hush"))
    assert described(ValueError("no a\nhush-hush")).startswith("ValueError: no ${oc.env:MY_KEY}")
    assert message_for(ConfigError(["x: a\nhush-hush is wrong"])) == (["x: ${oc.env:MY_KEY} is wrong"], 2)


def test_a_number_is_masked_only_as_a_whole_and_words_for_nothing_never(monkeypatch):
    read(monkeypatch, "1000")
    assert (
        masked("1000 of 1000.5, 21000, x1000 and 1000.")
        == "${oc.env:MY_KEY} of 1000.5, 21000, x1000 and ${oc.env:MY_KEY}."
    )
    for value in ("true", "False", "null", "None"):
        read(monkeypatch, value)
        assert masked(f"it is {value}") == f"it is {value}"


def test_the_path_of_the_run_stays_and_the_rest_of_the_line_is_masked(monkeypatch, tmp_path):
    read(monkeypatch, str(tmp_path))
    show_path(tmp_path / "run")
    assert masked(f"resume={tmp_path}/run/x {tmp_path}/run2 {tmp_path}") == (
        f"resume={tmp_path}/run/x ${{oc.env:MY_KEY}}/run2 ${{oc.env:MY_KEY}}"
    )
    monkeypatch.chdir(tmp_path)
    show_path(tmp_path / "hush")
    read(monkeypatch, "hush-hush")
    assert masked("hush hush-hush") == "hush ${oc.env:MY_KEY}"


def test_a_number_of_seqrls_own_is_no_secret_unless_it_is_used_for_more(monkeypatch):
    monkeypatch.setenv("MY_SEED", "4711")
    monkeypatch.setenv("MY_PIN", "4712")
    from seqrl.config.schema import RunConfig

    cfg = OmegaConf.merge(
        OmegaConf.structured(RunConfig), {"seed": "${oc.env:MY_SEED}", "episodes": "${oc.env:MY_PIN}"}
    )
    OmegaConf.set_struct(cfg, False)
    cfg.other = {"pin": ["${oc.env:MY_PIN}"]}
    assert variables(cfg) == ({"MY_SEED"}, {"MY_PIN"})
    declassify(*variables(cfg))
    with environment_read() as names:
        assert (cfg.seed, cfg.episodes) == (4711, 4712)
    assert names == {"MY_SEED", "MY_PIN"}
    assert masked("4711 4712") == "4711 ${oc.env:MY_PIN}"


def test_what_is_a_secret_for_one_configuration_is_shown_for_none(monkeypatch):
    monkeypatch.setenv("MY_PIN", "48151623")
    read(monkeypatch, "x")
    for number in range(2):
        declassify({"MY_PIN"}, set())
        assert masked("48151623") == ("48151623" if number == 0 else "${oc.env:MY_PIN}")
        declassify(set(), {"MY_PIN"})
        assert masked("48151623") == "${oc.env:MY_PIN}"


def test_a_manifest_is_json_whatever_a_variable_holds(monkeypatch, tmp_path):
    for value in ("1000", "running", '"', "status"):
        read(monkeypatch, value)

    def fail():
        with Manifest(tmp_path) as manifest:
            manifest.update(result=1000, overrides=["x=${oc.env:MY_KEY}", "y=1000"])
            raise ValueError("1000 is refused")

    with pytest.raises(ValueError, match="1000"):
        fail()
    facts = json.loads((tmp_path / "manifest.json").read_text())
    assert (facts["result"], facts["overrides"]) == (1000, ["x=${oc.env:MY_KEY}", "y=1000"])
    assert facts["error"] == "ValueError: ${oc.env:MY_KEY} is refused"


@pytest.mark.slow
def test_a_run_by_variables_says_where_it_is_in_words_that_a_shell_takes(tmp_path, monkeypatch):
    monkeypatch.setenv("BASE", str(tmp_path / "base"))
    monkeypatch.setenv("MY_SEED", "1000")
    done = train(tmp_path, *TINY, "seed=${oc.env:MY_SEED}", "hydra.run.dir=${oc.env:BASE}/r")
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "base" / "r" / "manifest.json").read_text())
    assert facts["seed"] == 1000
    assert "oc.env" not in done.stdout
    assert "base/r" in done.stdout


def test_a_sweep_notes_its_command_masked(tmp_path, monkeypatch):
    (tmp_path / "moody.py").write_text(MOODY)
    monkeypatch.setenv("MY_KEY", "hush-hush")
    typed = ["+env.kwargs.name=${oc.env:MY_KEY}", "+hydra.job.env_set.OTHER=hush-hush"]
    done = sweep(tmp_path, *MOODY_ARGUMENTS, *typed, "seed=0")
    assert done.returncode == 0, done.stderr
    begin, end = (json.loads(line)["command"] for line in (tmp_path / "s" / "commands.jsonl").read_text().splitlines())
    assert begin == end
    assert "hush" not in begin
    assert "OTHER=${oc.env:MY_KEY}" in begin


def test_an_error_that_a_program_of_ones_own_meets_is_masked(monkeypatch):
    read(monkeypatch, "hush-hush")
    error = EnvError("env.kwargs: X-v0 does not accept {'key': 'hush-hush'}")
    for it in (error, ConfigError(["env.id: no hush-hush.", "seed: wrong."])):
        for met in (it, pickle.loads(pickle.dumps(it))):
            assert "hush" not in "".join(traceback.format_exception(met)) + repr(met) + str(vars(met))
    assert error.args == ("env.kwargs: X-v0 does not accept {'key': '${oc.env:MY_KEY}'}",)


def test_a_key_of_seqrls_own_stays_whatever_a_variable_holds_and_an_environments_is_masked(monkeypatch):
    read(monkeypatch, "greedy")
    figures = {"returns": [1.0], "info": {"greedy": 1.0}, "said": "greedy is best"}
    assert masked_data({"greedy": figures, "list": ({"greedy": 1}, "greedy")}) == {
        "greedy": {"returns": [1.0], "info": {"${oc.env:MY_KEY}": 1.0}, "said": "${oc.env:MY_KEY} is best"},
        "list": [{"greedy": 1}, "${oc.env:MY_KEY}"],
    }
    assert masked_data({"environment": {"kwargs": {"greedy": 1}}}) == {
        "environment": {"kwargs": {"${oc.env:MY_KEY}": 1}}
    }


@pytest.mark.slow
def test_a_long_value_without_spaces_is_taken_apart_at_once(monkeypatch):
    """Looked through anew from each of its characters, it would take an hour."""
    value = "x" * 200_000 + "=token=hush"
    read(monkeypatch, value)
    assert masked(f"{value} and hush") == "${oc.env:MY_KEY} and ${oc.env:MY_KEY}"


def test_a_text_that_holds_nothing_of_a_long_value_is_not_searched_for_all_ways_to_write_it(monkeypatch):
    lines = [f"{number:x}+{number**9:x}/{number**7:x}" for number in range(10**6, 10**6 + 1000)]
    read(monkeypatch, "\n".join(lines))
    before = masks._any_of.cache_info().misses
    other = "[2026-01-01 00:00:00][INFO] step 4,096: return 21.0, /home/me/outputs/runs/x\n" * 100
    assert masked(other) == other
    assert masks._any_of.cache_info().misses == before
    assert masked(f"{other}{quote(lines[5], safe='')} is refused").removeprefix(other) == "${oc.env:MY_KEY} is refused"


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("hunter:Tr0ub4dor&3xyz", "Tr0ub4dor&3xyz"),
        ("me:correct-horse", "correct-horse"),
        ("postgres://bob:pass@db.example.org/main", "pass"),
        ("postgres://bob:p%40ss%2Fword@db.example.org/main", "p@ss/word"),
        (json.dumps({"type": "service_account", "keys": [{"private_key": "hush hush hush"}]}), "hush hush hush"),
        ("server=db;password=s3cretw0rd;port=1", "s3cretw0rd"),
        # Shorter ones, that a name or a digit shows to be secret.
        ("alice:hunter2", "hunter2"),
        ("alice:pa:ss@9", "pa:ss@9"),
        ("hunter:Tr0ub4dor@3xyz", "Tr0ub4dor@3xyz"),
        (json.dumps({"user": "main", "dbs": [{"password": "hush it"}]}), "hush it"),
        (json.dumps({"credentials": {"user": "bob", "key": "hush"}}), "hush"),
        (json.dumps({"password": 473811}), "473811"),
        ("Server=db;Uid=bob;Pwd=hush;", "hush"),
        ("https://example.org/?accessToken=hush&user=main", "hush"),
        ("postgres://bob:p@ssword@db.example.org/main", "p@ssword"),
    ],
)
def test_a_part_that_a_value_is_taken_apart_into_is_masked_if_it_may_be_secret_alone(monkeypatch, value, part):
    read(monkeypatch, value)
    assert masked(f"ValueError: {part!r} is refused") == "ValueError: '${oc.env:MY_KEY}' is refused"
    assert masked("postgres, example.org and server: main") == "postgres, example.org and server: main"


@pytest.mark.parametrize("value", ["localhost:8080", "gpu:auto", json.dumps({"region": "east", "zone": "four"})])
def test_a_part_that_is_short_and_plain_stays(monkeypatch, value):
    read(monkeypatch, value)
    text = "8080, auto, east, four"
    assert masked(text) == text
