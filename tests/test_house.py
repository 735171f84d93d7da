"""The rooms, and which way their doors open."""

import ast
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "seqrl").rglob("*.py")
}
GROUND = ["types", "spaces", "seeds", "text", "files", "statistics", "errors", "machine", "packages", "plain"]
# What each room may import beside the ground floor; a room that is not here, such as a program, may import all of them.
ROOMS = {
    **{room: [] for room in GROUND},
    "networks": [],
    "loggers": [],
    "config": [],
    "metrics": ["loggers"],
    "envs": ["config"],
    "devices": ["networks"],
    "ranks": [],
    "runner": ["envs", "networks", "ranks"],
    "algorithms": ["networks", "ranks"],
    "insight": ["algorithms", "networks"],
    "run": ["algorithms", "config", "devices", "envs", "insight", "loggers", "metrics", "networks", "ranks", "runner"],
    "film": ["config", "devices", "envs", "networks", "run", "runner"],
    "sweeps": ["config", "run"],
}
PROGRAMS = ["__main__", "train", "evaluate", "inspect", "export", "verify", "report", "tune", "runs"]
# Packages, and the only rooms that know them.
KNOWN_IN = {
    "hydra": ["config", "sweeps", "run.build", *PROGRAMS],
    "tensorboard": ["loggers.tensorboard"],
    "torch.utils.tensorboard": ["loggers.tensorboard"],
    "wandb": ["loggers.wandb"],
    "mlflow": ["loggers.mlflow"],
    "envpool": ["envs.gym.envpool"],
    "torch.distributed": ["ranks"],
    "rich": ["metrics.display", "report"],
    "PIL": ["envs.tasks.pictures", "film"],
    "matplotlib": ["report.figures"],
    "jinja2": ["report.page"],
    "optuna": ["tune"],
    "onnxruntime": ["export.proof"],
    "safetensors": ["export"],
    "huggingface_hub": ["export.hub"],
}


@cache
def imported(module: str) -> set[str]:
    """Modules that a module imports, anywhere in its file."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(module: str, room: str) -> bool:
    return f"{module}.".startswith(f"{room}.")


def room_of(module: str) -> str:
    """The folder, or the file beside the folders, that a module of seqrl lies in; none for the package's own front."""
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_lies_below_it(room):
    modules = [module for module in MODULES if room_of(module) == room]
    assert modules
    allowed = {room, *ROOMS[room], *([] if room in GROUND[:4] else GROUND)}
    for module in modules:
        known = {i for i in imported(module) if within(i, "seqrl") and room_of(i)}
        assert not {i for i in known if room_of(i) not in allowed}, module


def test_nothing_imports_a_program():
    for module in MODULES:
        others = [program for program in PROGRAMS if program != room_of(module)]
        assert not [i for i in imported(module) if any(within(i, f"seqrl.{other}") for other in others)], module


@pytest.mark.parametrize("package", KNOWN_IN)
def test_a_package_is_known_only_where_it_belongs(package):
    for module in MODULES:
        if not any(within(module, f"seqrl.{room}") for room in KNOWN_IN[package]):
            assert not [i for i in imported(module) if within(i, package)], module


def test_time_is_measured_with_clocks_that_no_environment_replaces():
    clocks = {f"time.{name}" for name in ("time", "time_ns", "monotonic", "perf_counter", "process_time", "sleep")}
    for module, path in MODULES.items():
        attributes = {ast.unparse(it) for it in ast.walk(ast.parse(path.read_text())) if isinstance(it, ast.Attribute)}
        assert module == "seqrl.machine" or not clocks & (attributes | imported(module)), module


def test_every_folder_of_the_package_is_shipped():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in MODULES.values()}
    assert set(project["tool"]["setuptools"]["packages"]) == folders | {"seqrl.conf"}


def test_few_files_stand_beside_the_folders():
    files = [path.name for path in (ROOT / "seqrl").iterdir() if path.is_file()]
    assert len(files) <= 15, sorted(files)


def test_every_file_says_in_a_sentence_what_lives_there():
    for path in MODULES.values():
        said = ast.get_docstring(ast.parse(path.read_text()))
        assert said, path
        assert said.splitlines()[0].endswith((".", ":", "`")), path


def test_the_version_stands_twice_and_agrees():
    import seqrl

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["version"] == seqrl.__version__
