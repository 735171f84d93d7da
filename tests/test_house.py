"""The rooms, and which way their doors open."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "seqrl").rglob("*.py")
}
FORBIDDEN = {
    "seqrl.algorithms": ["seqrl.envs", "seqrl.runner"],
    "seqrl.envs": ["seqrl.networks", "seqrl.runner", "seqrl.algorithms"],
    "seqrl.loggers": ["seqrl.train", "seqrl.outputs", "seqrl.run", "seqrl.metrics", "seqrl.algorithms", "seqrl.envs"],
    "seqrl.networks": ["seqrl.envs", "seqrl.runner", "seqrl.algorithms"],
    "seqrl.runner": ["seqrl.algorithms", "seqrl.losses", "seqrl.returns", "seqrl.sequences"],
    "seqrl.sequences": ["seqrl.envs", "seqrl.networks", "seqrl.algorithms"],
    "seqrl.spaces": ["seqrl"],
    "seqrl.types": ["seqrl"],
}
# Where the configuration comes in.
ENTRANCE = [
    f"seqrl.{m}" for m in ("train", "evaluate", "verify", "program", "configuration", "complaints", "sweeps", "trust")
]
ALLOWED = {
    "hydra": [*ENTRANCE, "seqrl.build"],
    "omegaconf": [*ENTRANCE, "seqrl.build", "seqrl.policy", "seqrl.resume", "seqrl.summary", "seqrl.tune.space"],
    "tensorboard": ["seqrl.loggers.tensorboard"],
    "torch.utils.tensorboard": ["seqrl.loggers.tensorboard"],
    "wandb": ["seqrl.loggers.wandb"],
    "mlflow": ["seqrl.loggers.mlflow"],
    "envpool": ["seqrl.envs.pool"],
    "rich": ["seqrl.metrics", "seqrl.report"],
    "PIL": ["seqrl.envs.pictures", "seqrl.video"],
    "matplotlib": ["seqrl.report.figures"],
    "jinja2": ["seqrl.report.page"],
    "seqrl.report": ["seqrl.report"],
    "optuna": ["seqrl.tune"],
    "seqrl.tune": ["seqrl.tune"],
    "seqrl.train": [],
    "seqrl.verify": [],
    "seqrl.evaluate": [],
}


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
    return module == room or module.startswith(f"{room}.")


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_knows_only_what_it_may(room):
    for module in MODULES:
        if within(module, room):
            known = [i for i in imported(module) for other in FORBIDDEN[room] if within(i, other)]
            assert not known, f"{module} imports {known}"


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_is_known_only_where_it_belongs(package):
    for module in MODULES:
        if not any(within(module, room) for room in ALLOWED[package]):
            assert not [i for i in imported(module) if within(i, package)], module


def test_every_folder_of_the_package_is_shipped():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in MODULES.values()}
    assert set(project["tool"]["setuptools"]["packages"]) == folders | {"seqrl.conf"}


def test_the_version_stands_twice_and_agrees():
    import seqrl

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["version"] == seqrl.__version__
