"""One tiny iteration of a run, to see that everything fits: `validate=true`."""

from omegaconf import DictConfig

from seqrl.config.settle import with_values
from seqrl.metrics.display import Display
from seqrl.run.build import build, make_device, prepare_device
from seqrl.run.memory_need import footprint
from seqrl.run.summary import introduction, notes, sizes
from seqrl.runner import rounds

# Environments that are enough to see what one needs.
FEW = 4


def rehearse(cfg: DictConfig) -> None:
    """Build all parts, play and learn one tiny iteration, and say how large the real one is; leaves no run behind."""
    display = Display()
    device = prepare_device(make_device(cfg), cfg, display.say)
    run = build(with_values(cfg, {"parallel": min(cfg.parallel, FEW)}), device)
    try:
        rollout = run.runner.collect()
        steps = float(rollout.valid.sum()) / rollout.valid.shape[1] * cfg.parallel
        again = 1 if cfg.rollout_length else rounds(cfg.rollout_steps, steps)
        need = footprint(run.algorithm, rollout, cfg.parallel, again)
        run.algorithm.update(rollout, 0.0)
    finally:
        run.runner.env.close()
    display.say(introduction(cfg, run, device))
    for note in notes(run.runner.env):
        display.say(note)
    display.console.print(sizes(cfg, run, steps, again, need), soft_wrap=True)
