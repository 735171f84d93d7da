"""Check, build and try a release, then tag it in this checkout; nothing is pushed or uploaded: `make release`.

1. The version is the same in pyproject.toml, seqrl/__init__.py, CITATION.cff and CHANGELOG.md, whose section has a
   date; every change is committed; the tag is not taken.
2. `make check docs test` passes.
3. `python -m build` makes an sdist, and from it a wheel, in dist/.
4. In a fresh virtual environment with that wheel, `seqrl --version` says the version, a tiny run trains, and
   `seqrl.load` plays its policy.
5. Every change is still committed: v<version> is tagged.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Where the version stands, and how.
PLACES = {
    "pyproject.toml": re.compile(r'^version = "(.+)"$', re.MULTILINE),
    "seqrl/__init__.py": re.compile(r'^__version__ = "(.+)"$', re.MULTILINE),
    "CITATION.cff": re.compile(r"^version: (.+)$", re.MULTILINE),
    "CHANGELOG.md": re.compile(r"^## \[(.+)\] - ", re.MULTILINE),
}
DATED = re.compile(r"^## \[.+\] - \d{4}-\d\d-\d\d$", re.MULTILINE)
TINY = ["episodes=1", "parallel=2", "evaluation.episodes=2", "env.max_episode_steps=5", "profile=quick"]
PLAY = """
import sys, seqrl
assert seqrl.__file__.startswith(sys.prefix), f"{seqrl.__file__} is not the wheel's"
policy = seqrl.load("latest")
action, state = policy(policy.observation_space.sample(), policy.initial_state())
assert policy.action_space.contains(action), action
"""

# A path of one's own could put the checkout before the wheel.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def versions(root: Path) -> dict[str, str]:
    """The version by the file that says it; of the changelog, its first section's. Empty where a file says none."""
    found = {place: pattern.search((root / place).read_text()) for place, pattern in PLACES.items()}
    return {place: match[1] if match else "" for place, match in found.items()}


def disagreement(said: dict[str, str]) -> str:
    """One line if not all say the same version; else empty."""
    if len(set(said.values())) == 1 and all(said.values()):
        return ""
    listed = ", ".join(f"{place} {version or 'none'}" for place, version in said.items())
    return f"the versions differ: {listed}. Write the same in all of them."


def run(*words: str | Path, folder: Path = ROOT) -> None:
    print(f"release: {' '.join(map(str, words))}", flush=True)
    if (done := subprocess.run(words, cwd=folder, env=ENVIRONMENT, check=False)).returncode:
        stop(f"{Path(words[0]).name} ended with exit code {done.returncode}.")


def stop(why: str) -> None:
    sys.exit(f"release: error: {why}")


def said_by(*words: str | Path, folder: Path = ROOT) -> str:
    done = subprocess.run(words, cwd=folder, env=ENVIRONMENT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def ready() -> str:
    """The version to release."""
    if fault := disagreement(said := versions(ROOT)):
        stop(fault)
    version = said["pyproject.toml"]
    section = (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1].splitlines()[0]
    if not DATED.match(f"## {section}"):
        stop(f"CHANGELOG.md: its first section has no date (## {section}). Write ## [{version}] - YYYY-MM-DD.")
    if said_by("git", "tag", "--list", f"v{version}"):
        stop(f"the tag v{version} is taken. Raise the version.")
    clean()
    return version


def clean() -> None:
    if changed := said_by("git", "status", "--porcelain"):
        stop(f"not everything is committed:\n{changed}")


def build() -> Path:
    """The wheel, in an emptied dist/."""
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", "dist")
    (wheel,) = (ROOT / "dist").glob("*.whl")
    return wheel


def attempt(wheel: Path, version: str) -> None:
    """Install the wheel where nothing else is, outside of the checkout, and use it."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel, folder=folder)
        if version not in (said := said_by(python.with_name("seqrl"), "--version", folder=folder)).split():
            stop(f"the wheel's seqrl --version says {said}, not {version}.")
        run(python, "-m", "seqrl.train", *TINY, folder=folder)
        run(python, "-c", PLAY, folder=folder)


def main() -> None:
    version = ready()
    run("make", "check", "docs", "test")
    attempt(build(), version)
    clean()
    run("git", "tag", "--annotate", f"v{version}", "--message", f"seqrl {version}")
    print(f"release: tagged v{version} here, with its files in dist/. Push the tag and upload the files yourself.")


if __name__ == "__main__":
    main()
