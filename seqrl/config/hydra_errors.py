"""Turns exceptions of Hydra, OmegaConf, YAML and the system into one line each."""

import errno
import inspect
import re
import traceback
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import hydra
import omegaconf
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override, RangeSweep
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from seqrl.config.naming import elsewhere
from seqrl.config.overrides import as_meant, faults_of_form, parsed
from seqrl.config.own_files import config_dirs, faults_of_folders, searchpath, unusable_files
from seqrl.config.paths import CONF, choices
from seqrl.config.secrets import SECRET_SOMEWHERE, secrets
from seqrl.config.synonyms import meant
from seqrl.config.trust import hydra_distrusted, loggers_distrusted, set_by_files
from seqrl.config.validate import FOLLOWS, faults, keys, numbers
from seqrl.errors import ConfigError, SeqrlError, causes
from seqrl.files import remedy
from seqrl.text import masked, nearest

COMPOSITION = (HydraException, MissingConfigException, OmegaConfBaseException, ValueError)
# What a broken file of the user raises; UnicodeDecodeError is a ValueError too.
FILES = (yaml.YAMLError, OSError)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Where what they raise comes from.
COMPOSERS = [Path(inspect.getfile(package)).parent for package in (hydra, omegaconf)]
# What somebody may write for a number that is to be none.
NOTHING = ("none", "nothing", "off", "no", "false", "disabled")
# What OmegaConf says of a value where a list belongs.
NO_LIST = "is not a ListConfig"
# What Hydra writes into the folder of a sweep.
MULTIRUN = "multirun.yaml"
# Of a sweep. Each is composed before the first begins.
MOST_POINTS = 10_000
GROUPS = sorted({folder.name for folder in CONF.iterdir() if folder.is_dir()} - {"hydra", "search"})


def message_for(error: Exception, arguments: Sequence[str] = ()) -> tuple[list[str], int] | None:
    """Lines that say what went wrong, and the exit code; None if it is a fault of seqrl.

    arguments   of the command line; everything wrong with them is reported, not only the first fault
    """
    if (message := _message_for(error, arguments)) is None:
        return None
    lines, exit_code = message
    # What was typed may hold line breaks.
    return [" ".join(masked(line).split()) for line in lines], exit_code


def _message_for(error: Exception, arguments: Sequence[str]) -> tuple[list[str], int] | None:
    if isinstance(error, ConfigError):
        return error.faults, error.exit_code
    if isinstance(error, SeqrlError):
        return [str(error)], error.exit_code
    if isinstance(error, UnicodeDecodeError):
        return unusable_files(config_dirs(arguments), arguments, error) or [_file(error)], ConfigError.exit_code
    if isinstance(error, yaml.YAMLError):
        return [_file(error)], ConfigError.exit_code
    if isinstance(error, OSError) and error.errno in FULL and not error.filename:
        # Hydra prints, too.
        return [f"{error.strerror}. {remedy(error)}"], ConfigError.exit_code
    if isinstance(error, MemoryError):
        return ["memory: there is too little. Free some, or raise its limit (ulimit -v)."], ConfigError.exit_code
    # Hydra begins a sweep by writing it; what it raises then says nothing of the configuration.
    is_of_multirun = isinstance(error, OSError) and Path(str(error.filename)).name == MULTIRUN
    if _is_composition(error) and not is_of_multirun:
        if unusable := unusable_files(config_dirs(arguments), arguments, error):
            return unusable, ConfigError.exit_code
        return list(dict.fromkeys(_of_each(arguments))) or [_composition(error)], ConfigError.exit_code
    if isinstance(error, OSError) and error.filename:
        return [f"{error.filename}: {error.strerror}. {remedy(error)}"], ConfigError.exit_code
    return None


def faults_of_files(arguments: Sequence[str]) -> list[str]:
    """What must be known of the user's own files, and of secrets, before Hydra imports anything or writes it down."""
    overrides = _overrides(arguments)
    if wrong := faults_of_folders(arguments):
        return wrong
    words = [*filter(is_hydra, arguments), *overrides]
    if not (own := searchpath(arguments)) and not any(map(SECRET_SOMEWHERE.search, words)):
        return []
    try:
        whole = [*own, *words]
        return _of_hydra(composed_by_hydra(whole, return_hydra_config=True), whole)
    except (*COMPOSITION, *FILES) as error:
        # Hydra would build what files of the user's own name before it says the same.
        said = _message_for(error, arguments)
        return said[0] if own and said else []


def _of_hydra(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """What is wrong with Hydra's own section, and what would be written down.

    overrides   that made it
    """
    own = any(override.startswith("hydra.searchpath=") for override in overrides)
    if not own:
        return list(secrets(cfg))
    try:
        plain = composed_by_hydra(
            [
                o
                for o in overrides
                if o.startswith(("hydra.", "hydra/", "+hydra", "~hydra")) and not o.startswith("hydra.searchpath=")
            ],
            return_hydra_config=True,
        )
    except COMPOSITION as error:
        return [f"{_composition(error)} A file of your own needs trust=[hydra]."]
    distrusted = [*hydra_distrusted(cfg.hydra, plain.hydra, overrides), *loggers_distrusted(cfg, overrides)]
    return [*distrusted, *set_by_files(cfg, overrides), *secrets(cfg)]


def faults_of_sweep(arguments: Sequence[str]) -> list[str]:
    """What is wrong with the points of a sweep, a line each with the points that it is wrong in."""
    if unfit := faults_of_folders(arguments):
        return unfit
    overrides = parsed(_overrides(arguments))
    if unfit := [*_faults_of_sizes(overrides)]:
        return unfit
    wrong: dict[str, list[int]] = {}
    hydra = [*filter(is_hydra, arguments)]
    # Only where files of the user's own could set more of it, or it sets a secret.
    hydra = hydra if config_dirs(arguments) or any(map(SECRET_SOMEWHERE.search, hydra)) else []
    for number, point in enumerate(_points(overrides)):
        lines = faults_of_run([*searchpath(arguments), *hydra, *point])
        for line in (lines and unusable_files(config_dirs(arguments), point)) or lines:
            wrong.setdefault(line, []).append(number)
    return [f"point{'s' * (len(it) > 1)} {_few(it)} of the sweep: {line}" for line, it in wrong.items()]


def points_of_sweep(arguments: Sequence[str]) -> list[list[str]]:
    """The overrides of each point of a sweep, as Hydra gives them to it."""
    return _points(parsed(_overrides(arguments)))


def _points(overrides: list[Override]) -> list[list[str]]:
    return [list(point) for point in BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]]


def _faults_of_sizes(overrides: Sequence[Override]) -> Iterator[str]:
    """What is wrong with the values of a sweep, before anybody makes a list of them."""
    points = 1
    for it in overrides:
        if not it.is_sweep_override():
            continue
        key, _, text = (it.input_line or "").partition("=")
        try:
            value: Any = it.value()
            values = value.range() if isinstance(value, RangeSweep) else value.list
            if not (count := sum(1 for _ in islice(values, MOST_POINTS + 1))):
                raise ValueError
            points *= count
        except (AttributeError, ArithmeticError, ValueError):
            yield f"{key}: has no values to sweep over (got {text}). Write them, {key}=…,…, or a range, {key}=range(3)."
    if points > MOST_POINTS:
        yield f"sweep: has more than {MOST_POINTS:,} points. Make several of it."


def faults_of_run(overrides: list[str]) -> list[str]:
    """What is wrong with a run that these make."""
    try:
        cfg = composed_by_hydra(overrides, return_hydra_config=True)
        found = _of_hydra(cfg, overrides)
        with open_dict(cfg):
            del cfg["hydra"]
        return [*found, *faults(cfg)]
    except COMPOSITION as error:
        groups = (*GROUPS, "hydra.searchpath")
        return [_composition(error, others=[o for o in overrides if o.partition("=")[0] in groups])]


def numbers_of_run(overrides: list[str]) -> dict[str, type[int] | type[float]]:
    """Keys of a run that these make and that take numbers, and whether they take real or whole ones."""
    return dict(numbers(composed_by_hydra(overrides)))


def _few(numbers: list[int]) -> str:
    more = f" and {len(numbers) - 4} more" if len(numbers) > 4 else ""
    return f"{', '.join(map(str, numbers[:4]))}{more}"


def is_hydra(override: str) -> bool:
    """Whether an override is of Hydra's own section, or of a group of it."""
    return _is_override(override) and override.lstrip("+~").startswith(("hydra.", "hydra/"))


def _is_override(argument: str) -> bool:
    """Whether a word changes the configuration: `key=value`, or `~key`, which takes it out."""
    return argument.startswith("~") or ("=" in argument and not argument.startswith("-"))


def _overrides(arguments: Sequence[str]) -> list[str]:
    return [a for a in arguments if _is_override(a) and not is_hydra(a)]


def _is_composition(error: Exception) -> bool:
    """Whether Hydra could not make a configuration of it; for odd values it raises anything."""
    if isinstance(error, HydraException | OmegaConfBaseException):
        return True
    innermost = traceback.extract_tb(error.__traceback__)[-1:]
    return any(Path(frame.filename).is_relative_to(home) for frame in innermost for home in COMPOSERS)


def _of_each(arguments: Sequence[str]) -> Iterator[str]:
    """What is wrong with each override, given those that are right."""
    right = searchpath(arguments)
    # Groups first: other keys may be theirs.
    for override in sorted(_overrides(arguments), key=lambda a: a.partition("=")[0].lstrip("+~") not in GROUPS):
        try:
            composed_by_hydra([*right, override])
            right.append(override)
        except UnicodeDecodeError as error:
            yield _file(error)
        except Exception as error:
            if isinstance(error, FILES) and not isinstance(error, COMPOSITION):
                yield _file(error)
                continue
            # Several values are a sweep's, and compose takes none.
            if "sweep" not in str(error).lower():
                yield _composition(error, override, right)
            if listed := _as_list(error):
                # What else is wrong is so with the list that was meant.
                right.append(listed)
    try:
        yield from faults(composed_by_hydra(right))
    except (*COMPOSITION, *FILES):
        return


def composed_by_hydra(overrides: list[str], return_hydra_config: bool = False) -> DictConfig:
    """What overrides make of the shipped files, whatever Hydra was at before."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", overrides, return_hydra_config=return_hydra_config)


def _composition(error: Exception, override: str = "", others: Sequence[str] = ()) -> str:
    text = str(error)
    if found := re.search(r"Could not load '([^/']+/[^']*)'", text):
        # Of one among several, `logger=[csv,jsonl]`, Hydra does not say what there is.
        try:
            composed_by_hydra([*_searchpath(others), found[1].replace("/", "=", 1)])
        except HydraException as alone:
            text = str(alone)
    if found := re.search(r"Could not find '([^/']+)/([^']*)'", text):
        group, choice = found.groups()
        there = re.findall(r"^\t(?!provider)(\S+)$", text, re.MULTILINE)
        extra = (
            " Another GPU: device=cuda device.name=cuda:1." if group == "device" and choice.startswith("cuda") else ""
        )
        longer = [it for it in there if choice.lower() in it.split("_")]
        meant = f" Did you mean {' or '.join(longer)}?" if longer else ""
        meant = meant or nearest(choice, there) or nearest(choice.lower(), there)
        if group == "device" and choice.lower() in ("gpu", "nvidia"):
            meant = " Did you mean cuda?"
        if group == "env" and re.search(r"-v\d+$|:", choice):
            meant = f" For an environment of that id, write env.id={choice}."
        own = "" if meant or _searchpath(others) else " Your own need --config-dir."
        return f"{group}: there is no {group}={choice}.{meant} Choices: {', '.join(there)}.{own}{extra}"
    if "Config group override" in text:
        group = override.partition("=")[0] or "a group"
        known = ", ".join(choices(group)) if group in GROUPS else "network=lstm, for instance"
        return f"{group}: needs a choice (got {override.partition('=')[2] or 'null'}). Choices: {known}."
    if found := re.search(r"Ambiguous value for argument '([^=]+)=(.*?)'$", text, re.MULTILINE):
        key, values = found.groups()
        # As numbers are printed: 100,000.
        is_number = re.fullmatch(r"[1-9]\d{0,2}(,000)+", values)
        number = f"For a number write {key}={values.replace(',', '')}, for" if is_number else "For"
        listed = f", for a list write {key}=[{values}]" if _takes_list(key, values, others) else ""
        return f"{key}: has several values (got {values}). {number} a sweep add -m{listed}."
    if found := re.search(r"Sweep parameters '([^=']+)=(.*)' requires", text):
        key, values = found.groups()
        return f"{key}: has several values (got {values}). For a sweep add -m."
    if found := re.search(r"Could not delete from config\. (The value of )?'([^']+)' (.*)\.$", text, re.MULTILINE):
        key, why = found[2], found[3]
        if found[1]:
            return f"~{key}: takes nothing out, as its value {why}. Write ~{key}."
        return (
            f"~{key}: takes nothing out, as there is no such key.{nearest(key, [*keys(composed_by_hydra([*others]))])}"
        )
    if found := re.search(r"Could not override '([^']+)'", text):
        return _unknown(found.group(1), others)
    if found := re.search(r"^In '([^']+)': .*?^Key '[^']+' not in .*?full_key: (\S+)", text, re.MULTILINE | re.DOTALL):
        return f"{found.group(1)}.yaml: {_unknown(found.group(2), [])}"
    if isinstance(error, OverrideParseException):
        key, equals, value = str(error.override).partition("=")
        if not equals:
            return faults_of_form([key.lstrip("~")])[0]
        return f"{key.strip()}: its value cannot be read (got {value.strip()}). {as_meant(key, value)}"
    if not isinstance(error, COMPOSITION):
        key, _, value = override.partition("=")
        return f"{key or 'configuration'}: its value cannot be used (got {value})."
    if found := re.search(r"Multiple values for (\w+)", text):
        return f"{found.group(1)}: is already in the configuration. Write {found.group(1)}=… without the plus sign."
    return _value(error)


def _searchpath(overrides: Sequence[str]) -> list[str]:
    return [it for it in overrides if it.startswith("hydra.searchpath")]


def _as_list(error: Exception) -> str:
    """An override with its value as the only one of a list, if it was refused as none; otherwise nothing."""
    found = re.fullmatch(r"Error merging override ([^=]+)=(.+)", str(error), re.DOTALL)
    said = str(causes(error)[-1])
    return f"{found[1]}=[{found[2]}]" if found and NO_LIST in said and f"full_key: {found[1]}\n" in said else ""


def _value(error: Exception) -> str:
    said = (f"{it}" for it in causes(error)[:2])
    key = next(filter(None, (re.search(r"full_key: (\S+)", it) for it in said)), None)
    lines = [it.rstrip(".:") for it in masked(str(causes(error)[-1])).splitlines()]
    file = ""
    if found := re.match(r"In '([^']+)': \w+ raised while composing config$", lines[0]):
        file = f"{found[1]}.yaml: "
        del lines[0]
    message = lines[0]
    if found := re.match(r"Merge error: \w+ is not a subclass of (\w+)\. value: (.*)", message):
        types = {str(section): OmegaConf.get_type(it) for section, it in composed_by_hydra([]).items()}
        section = next((name for name, it in types.items() if it and it.__name__ == found[1]), "configuration")
        return f"{file}{section}: is a section of keys (got {found[2]})."
    if found := re.search(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", message):
        kind = {"Integer": "a whole number", "Float": "a number"}.get(found.group(2), found.group(2))
        is_none = found.group(1).lower() in NOTHING and key is not None and _may_be_null(key.group(1))
        message = f"must be {kind}{', or null' if is_none else ''} (got {found.group(1)})"
    elif found := re.search(r"Value '(.*)' is not a valid bool", message):
        message = f"must be true or false (got {found.group(1)})"
    elif found := re.search(r"^Cannot assign \w+ to Dict|is not a subclass of|^Cannot merge DictConfig", message):
        (first, *_) = [*str(error).partition("Error merging override ")[2].splitlines(), ""]
        got = first.partition("=")[2]
        is_cell = key is not None and key.group(1) == "network.memory" and got in choices("network")
        choose = f" Choose a cell with network={got}." if is_cell else ""
        message = f"is a section of keys{f' (got {got})' if got else ''}.{choose}".rstrip(".")
    elif NO_LIST in message:
        listed = _as_list(error)
        got = f" (got {listed.partition('=')[2][1:-1]}). Write {listed}" if listed else ", such as [a,b]"
        message = f"must be a list{got}"
    elif "is not Optional" in message:
        message = "needs a value (got null)"
    return f"{file}{key.group(1) if key else 'configuration'}: {message}."


def _may_be_null(key: str) -> bool:
    return _composes(f"{key}=null", [])


def _takes_list(key: str, values: str, others: Sequence[str]) -> bool:
    """Whether several values of a key may be meant together: loggers, but not two experiments."""
    return (key not in GROUPS or key == "logger") and _composes(f"{key}=[{values}]", others)


def _composes(override: str, others: Sequence[str]) -> bool:
    """Whether Hydra takes an override, beside others."""
    try:
        composed_by_hydra([*others, override])
    except COMPOSITION:
        return False
    return True


def _unknown(key: str, others: Sequence[str]) -> str:
    """Complaint about a key that is not there, with the nearest one that is."""
    if key == "env.kwargs" or key.startswith("env.kwargs."):
        return f"{key}: an argument of the environment is added with a plus sign. Write +{key}=…."
    if key.startswith("hydra.launcher."):
        see = "python -m seqrl.train hydra/launcher=joblib --cfg hydra --package hydra.launcher"
        return f"{key}: this launcher has no such key. For the keys of another, such as joblib: {see}."
    if remedy := meant(key):
        return f"{key}: there is no such key.{remedy}"
    known = [k for k in keys(composed_by_hydra(list(others))) if not k.endswith("_target_") and k not in FOLLOWS]
    section, _, name = key.rpartition(".")
    if section in ("sequence", "sequence_learning") or key == "sequence":
        remedy = (
            nearest(f"sequence_learning.{name}", known)
            or " The keys are sequence_learning.*; sequence= chooses a file."
        )
    else:
        same_name = [k for k in known if name and k.rpartition(".")[2] == name]
        # That both are of `env` makes two words no more alike.
        alike = section != "env" or nearest(name, [k.removeprefix("env.") for k in known if k.startswith("env.")])
        near = f" Did you mean {same_name[0]}?" if same_name else nearest(key, known) if alike else ""
        if section == "env" and "env.kwargs" in known:
            remedy = near or f" An argument of the environment is written +env.kwargs.{name}=…."
        else:
            remedy = elsewhere(section, name) or near
    return f"{key}: there is no such key.{remedy} All keys: python -m seqrl.train --cfg job."


def _file(error: Exception) -> str:
    """File, line and problem of a broken file of the user, in one line."""
    if isinstance(error, UnicodeDecodeError):
        return "--config-dir: contains a file that is not UTF-8 text. Fix or remove it."
    mark = getattr(error, "problem_mark", None)
    where = f"{mark.name}:{mark.line + 1}" if mark else getattr(error, "name", "--config-dir")
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).splitlines()[0]
    return f"{where}: {problem}. Fix the YAML."
