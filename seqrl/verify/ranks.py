"""Whether a run over several processes is the run of one: `processes=2` asks for it."""

import sys
from contextlib import closing
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from seqrl.config.program import forgiving_output
from seqrl.config.settle import with_values
from seqrl.errors import SeqrlError
from seqrl.ranks import ALONE, Ranks
from seqrl.ranks.start import Place, assembled, be_quiet, joined
from seqrl.run.build import build, make_device, plays_alike
from seqrl.text import Hidden, hidden, hide
from seqrl.verify.findings import Check, Measured, Status, small

# Updates that are compared, and steps of each environment for one of them.
UPDATES, STEPS = 3, 64


def processes_check(cfg: DictConfig) -> Check:
    """The check of a configuration that asks for several processes."""
    return Check(
        f"{cfg.processes} processes learn what one does",
        "Draw every random number of an environment from self.np_random, and those of a policy with seqrl.seeds.drawn.",
        lambda _: _measured(cfg),
    )


def _measured(cfg: DictConfig) -> Measured:
    """The same few updates in one process and in several, in float64."""
    small_one: dict[str, Any] = {
        "parallel": min(cfg.parallel, 2 * cfg.processes + 1),
        "device": {"name": "cpu", "precision": "float64"},
        "insight": {"interval": 0},
    }
    if cfg.rollout_length:
        small_one["rollout_length"] = min(cfg.rollout_length, STEPS)
    else:
        small_one |= {"rollout_steps": 1, "rollout_rewards": 0}
    brief = with_values(cfg, small_one)
    alone, alike = _learned(brief, ALONE)
    with assembled(cfg.processes, False, follow) as ranks:
        ranks.of_first((brief, hidden()))
        together, _ = _learned(brief, ranks)
    apart = max(float((together[name] - it).abs().max()) for name, it in alone.items() if it.numel())
    if not alike:
        return Measured(
            Status.WARN,
            "they play other episodes than one process does",
            "They learn rightly, but not what one process would: what plays does not seed each environment for itself. "
            "env.backend=sync or async does.",
        )
    return small(apart, 1e-8, f"largest difference of a parameter after {UPDATES} updates")


def _learned(cfg: DictConfig, ranks: Ranks) -> tuple[dict[str, Tensor], bool]:
    """Parameters after a few updates, and whether each environment plays the same wherever it is played."""
    run = build(cfg, make_device(cfg), ranks=ranks)
    with closing(run.runner.env):
        for _ in range(UPDATES):
            run.iterate()
        return {name: it.detach() for name, it in run.algorithm.parameters.items()}, plays_alike(
            cfg, run.runner.env.backend
        )


def follow(place: Place) -> None:
    """What the other processes do."""
    be_quiet(place)
    forgiving_output()
    try:
        with joined(place) as ranks:
            given: tuple[DictConfig, Hidden] = ranks.of_first(None)  # type: ignore[assignment]  # the first one gives it
            cfg, masks = given
            hide(masks)
            _learned(cfg, ranks)
    except SeqrlError as error:
        sys.exit(error.exit_code)
