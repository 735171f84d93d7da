"""What the last checkpoint's training does with memory: how far gradients must reach, how stale memory is."""

import copy
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from seqrl import seeds
from seqrl.algorithms.base import SequenceAlgorithm
from seqrl.errors import SeqrlError
from seqrl.insight import NotApplicableError, Probe, gradient_cut, need, staleness, untouched
from seqrl.inspect.subject import Subject
from seqrl.runner import Runner
from seqrl.runs import policy
from seqrl.runs.build import make_env
from seqrl.types import Rollout

KEYS = ["gradient_horizon", "gradient_cut", "gradient_cuts", "gradient_chance", "staleness_kl", "need"]


class Training:
    """A rollout as the run would play it, and a copy of what would learn from it.

    Raises NotApplicableError if the run does not say how it learned.
    """

    def __init__(self, subject: Subject) -> None:
        network = copy.deepcopy(subject.network)
        with _reasoned():
            self.algorithm, runner = policy.learner(subject.run, subject.cfg, network, subject.state)
        self.progress = subject.progress()
        self.rollout = _rollout(subject, self.algorithm, runner)

    def probe(self) -> Probe:
        return Probe.of(self.algorithm, self.rollout, self.progress)

    def gradient(self) -> dict[str, Any]:
        """How much of the gradient a cut takes, and how far back it must reach."""
        own = self.algorithm.settings.bptt_length
        with untouched(self.algorithm.network):
            found = gradient_cut(self.probe(), also=[own] if own else [])
        return {
            "gradient_horizon": found.horizon,
            "gradient_cut": found.cuts.get(min(own, found.longest)) if own else 0.0,
            "gradient_cuts": {str(k): cut for k, cut in sorted({**found.cuts, found.longest: 0.0}.items())},
            "gradient_chance": {str(k): chance for k, chance in sorted(found.chance.items())},
        }

    def need(self) -> dict[str, Any]:
        """Whether the past foretells what the present observation does not."""
        found = need(self.probe())
        return {
            "share": found.share,
            "error": found.error,
            "is_certain": bool(found.is_certain),
            "source": found.source,
        }

    def staleness_kl(self) -> float:
        """How stale stored memory is once an update has learned from this rollout; changes the copy.

        The update is one of the run's first half: by its end, an annealed learning rate changes nothing.
        """
        probe = self.probe()
        self.algorithm.update(self.rollout, min(self.progress, 0.5))
        stored = self.algorithm._memory(self.rollout, aged=True)
        # Anew, because memory is to be computed by the network as it is now.
        return staleness(replace(probe), stored).kl


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
