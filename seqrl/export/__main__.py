"""Export the policy of a run: `python -m seqrl.export run=<folder> [key=value ...]`.

Writes policy.onnx, which computes one step with onnxruntime alone, policy.safetensors with the weights, and README.md,
which says how to step it. Before anything is written, the exported step plays the run's environment beside the policy
for 10,000 steps, and everything they compute is compared. The run may be finished, interrupted or still running; it is
not changed.

{usage}

Example:

  python -m seqrl.export run=outputs/runs/<date>/<run> checkpoint=best
"""

from contextlib import closing
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

import seqrl
from seqrl import seeds
from seqrl.config.program import run_on_words, to_the_end
from seqrl.config.words import usage
from seqrl.devices.device import Device
from seqrl.envs.base import BatchedEnv
from seqrl.errors import ConfigError, SeqrlError
from seqrl.export import hub
from seqrl.export.card import MARK, card, sentence
from seqrl.export.facts import VERSION, evaluated, facts, trained
from seqrl.export.model import model
from seqrl.export.own import own
from seqrl.export.proof import STEPS, TOLERANCE, Proof, prove
from seqrl.export.request import Request, requested
from seqrl.export.step import OneStep, apart
from seqrl.files import insist_on_own, make_folder, write_together
from seqrl.metrics.display import Bar
from seqrl.networks import Network
from seqrl.packages import how_to_install, insist_on_temporary_files, is_installed
from seqrl.run import policy
from seqrl.run.build import make_device, make_env, network_builder
from seqrl.run.evaluator import frozen
from seqrl.text import docstring, encoded, say

NEEDED = ["onnx", "onnxscript", "onnxruntime", "safetensors"]
# By which seqrl knows its own, in the order in which they are written.
FILES = {"README.md": MARK, "policy.onnx": VERSION, "policy.safetensors": VERSION}
# Environments that the proof plays side by side; of those that are played one by one no more than the run had.
ROWS = 50


class UnequalError(SeqrlError):
    """The exported step does not compute what the policy does."""


def insist_on_packages(request: Request) -> None:
    """Raise ConfigError if what an export needs is not installed."""
    if missing := [name for name in NEEDED if not is_installed(name)]:
        raise ConfigError(
            [
                f"export: {', '.join(missing)} {'are' if missing[1:] else 'is'} not installed. "
                f"{how_to_install('export', several=len(missing) > 1)}"
            ]
        )
    if request.hub:
        hub.insist_on_package()


def configuration(request: Request) -> DictConfig:
    """The configuration to export and to prove with: on the CPU, in the precision of every other program.

    Raises CheckpointError if there is no run, ConfigError if it cannot, or must not, be played.
    """
    values = {"device.precision": "float32"}
    if policy.configuration(request.run).env.get("backend") == "async":
        # See `beside`.
        values["env.backend"] = "sync"
    return policy.chosen(request.run, trust=request.trust, device="cpu", values=values)[0]


def export(request: Request) -> None:
    """Export, prove, and write the files."""
    insist_on_packages(request)
    insist_on_temporary_files()
    # An environment may change the working folder.
    run, folder = request.run.absolute(), request.folder.absolute()
    insist_on_own(folder, FILES)
    precision = policy.configuration(request.run).device.precision
    cfg = configuration(request)
    state, passed_over = policy.checkpoint(request.run, request.checkpoint)
    progress = policy.progress(state)
    device = make_device(cfg)
    device.prepare()
    network = policy.network(cfg, device, state)
    for fault in passed_over:
        say(f"warning: checkpoint {fault}; using an older one.")
    say(f"{request.run}, after {progress['iterations']} iterations, {progress['env_steps']:,} steps")
    if precision != "float32":
        say(f"note: it was trained in {precision}, and is exported in float32.")
    files, proof = made(cfg, device, network, run, progress)
    say(f"policy.onnx, {len(files['policy.onnx']) / 1e3:,.0f} kB: {sentence(proof)}")
    make_folder(folder)
    write_together({folder / name: data for name, data in files.items()})
    say(f"Written to {request.folder}: {', '.join(files)}")
    if request.hub:
        say(f"Uploaded: {hub.upload(folder, list(files), request.hub)}")


def made(
    cfg: DictConfig, device: Device, network: Network, run: Path, progress: dict[str, int]
) -> tuple[dict[str, bytes], Proof]:
    """The files, by name, and what shows that they are right. Raises UnequalError if they are not."""
    from safetensors.torch import save

    tensors = {name: it.detach().clone().contiguous() for name, it in network.state_dict().items()}
    weights = save(tensors, {VERSION: seqrl.__version__})
    with closing(beside(cfg, device)) as env, frozen(network):
        step = OneStep(copied(cfg, env, network), env, own(env, cfg.env.get("hidden") or ()))
        told = facts(run, policy.configuration(run), progress, step, weights)
        exported = model(step, told)
        generator = seeds.generator(cfg.seed, "export", device.torch_device)
        with Bar() as bar:
            proof = prove(exported, step, env, network, generator, STEPS, bar.show)
    if not proof.holds:
        raise UnequalError(unequal(proof))
    text = card(step.inputs, step.outputs, told, trained(run), evaluated(run, progress), proof)
    return dict(zip(FILES, (encoded(text), exported, weights), strict=True)), proof


def beside(cfg: DictConfig, device: Device) -> BatchedEnv:
    """The environments that the proof plays, in this process: others show nobody what their environments show."""
    # Of one alone, none is in another process.
    one = make_env(cfg, device, 1, "export")
    one.close()
    rows = min(ROWS, cfg.parallel) if one.backend == "sync" else ROWS
    return make_env(cfg, device, rows, "export", backend=one.backend)


def copied(cfg: DictConfig, env: BatchedEnv, network: Network) -> Network:
    """The same network, for observations that come part by part."""
    made: Network = network_builder(cfg)(apart(env.observation_space), env.action_space)
    made.load_state_dict(network.state_dict())
    return made.requires_grad_(False).eval()


def unequal(proof: Proof) -> str:
    largest, name = proof.largest
    what = ", ".join(sorted(proof.wrong)) if proof.wrong else f"{name}, by {largest:.1e}, where {TOLERANCE:g} may be"
    return f"export: the exported step differs from the policy in {what}. Nothing was written."


def main() -> None:
    """What `python -m seqrl.export` does; `program` ends the process, too."""
    run_on_words(lambda: docstring(__name__).format(usage=usage(Request)), lambda words: export(requested(words)))


program = partial(to_the_end, main)

if __name__ == "__main__":
    program()
