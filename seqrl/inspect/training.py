"""What the last checkpoint's training does with memory: how far gradients must reach, how stale memory is."""

import copy
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from seqrl import seeds
from seqrl.algorithms.base import SequenceAlgorithm
from seqrl.errors import SeqrlError
from seqrl.insight import GradientCut, Meters, NotApplicableError
from seqrl.inspect.subject import Subject
from seqrl.run import policy
from seqrl.run.build import make_env
from seqrl.runner import Runner
from seqrl.types import Rollout

# Keys of inspect.json, by the measure's name.
KEYS = {
    "gradient_cut": ["gradient_horizon", "gradient_cut", "gradient_cuts", "gradient_chance"],
    "staleness": ["staleness_kl"],
    "need": ["need"],
}


def training(subject: Subject) -> tuple[dict[str, Any], dict[str, str]]:
    """What the meters of a run say of one more update of its checkpoint, by key; and why they do not, by theirs.

    The update learns from a rollout as the run would play it, and changes a copy. It is one of the run's first half: by
    its end, an annealed learning rate leaves no memory stale.

    Raises NotApplicableError if the run does not say how it learned, or cannot learn.
    """
    meters = Meters(interval=1)
    with _reasoned():
        network = copy.deepcopy(subject.network)
        algorithm, runner = policy.learner(subject.run, subject.cfg, network, subject.state)
        rollout = _rollout(subject, algorithm, runner)
        algorithm.observer = meters.ready_for(1)
        algorithm.update(rollout, min(subject.progress(), 0.5))
    found: dict[str, Any] = {}
    if meters.cuts:
        found |= _gradient(meters.cuts[-1], algorithm.settings.bptt_length)
    if meters.stale:
        found["staleness_kl"] = meters.stale[-1].kl
    if meters.needs:
        need = meters.needs[-1]
        found["need"] = {
            "share": need.share, "error": need.error, "is_there": bool(need.is_there), "source": need.source
        }  # fmt: skip
    return found, meters.reasons


def _gradient(found: GradientCut, bptt_length: int) -> dict[str, Any]:
    cuts = {**found.cuts, found.longest: 0.0}
    return {
        "gradient_horizon": found.horizon,
        "gradient_cut": found.of(bptt_length),
        "gradient_cuts": {str(k): cuts[k] for k in sorted(cuts)},
        "gradient_chance": {str(k): found.chance[k] for k in sorted(found.chance)},
    }


@contextmanager
def _reasoned() -> Iterator[None]:
    try:
        yield
    except (SeqrlError, OSError, ValueError) as error:
        raise NotApplicableError(str(error).splitlines()[0].rstrip(".")) from error


def _rollout(subject: Subject, algorithm: SequenceAlgorithm, runner: Any) -> Rollout:
    cfg, device = subject.cfg, subject.device
    generator = seeds.generator(cfg.seed, "inspection policy", device.torch_device)
    with closing(make_env(cfg, device, cfg.parallel, "inspection")) as env:
        player = Runner(
            env,
            algorithm.network,
            runner.rollout_length,
            algorithm.settings.bptt_length,
            generator,
            state_lead=algorithm.state_lead,
            episode_limit=cfg.runner.episode_limit,
        )
        rollout = player.collect()
        # The first one has only begun its episodes; later ones carry memory in.
        return player.collect() if runner.rollout_length else rollout
