"""One tiny iteration of a run, to see that everything fits, and what others would take: `validate=true`."""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace

from omegaconf import DictConfig

from seqrl.config.settle import with_values
from seqrl.devices.device import Device
from seqrl.machine import core_seconds, perf_counter
from seqrl.metrics.display import Display
from seqrl.run.build import budget_of, build, make_device, prepare_device
from seqrl.run.memory_need import footprint, free_bytes
from seqrl.run.plan import PLAYING, SECONDS, Played, applies, said_of_waiting, table, ways
from seqrl.run.run import Run
from seqrl.run.summary import introduction, notes, sizes
from seqrl.runner import rounds

# Environments that are enough to see what one needs, and steps that show what many take together.
FEW = 4
SHORT = 16


def rehearse(cfg: DictConfig, overrides: Iterable[str] = ()) -> None:
    """Build all parts, play and learn one tiny iteration, and say how large the real one is; leaves no run behind.

    overrides   of the command line, of which some may have no effect
    """
    display = Display()
    device = prepare_device(make_device(cfg), cfg, display.say)
    began = perf_counter()
    few = min(cfg.parallel, FEW)
    run = build(with_values(cfg, {"parallel": few}), device)
    try:
        playing = perf_counter()
        rollout = run.runner.collect()
        played = Played(rollout, perf_counter() - playing)
        steps = float(rollout.valid.sum()) / rollout.valid.shape[1] * cfg.parallel
        rewards = int((rollout.reward != 0)[rollout.valid].sum()) / few * cfg.parallel
        whole = (cfg.rollout_steps, cfg.rollout_rewards, steps, rewards, cfg.parallel)
        again = 1 if cfg.rollout_length else rounds(*whole)
        need = footprint(run.algorithm, rollout, cfg.parallel, again)
        free = free_bytes(rollout.valid.device)
        run.algorithm.update(rollout, 0.0)
    finally:
        run.runner.env.close()
    display.say(introduction(cfg, run, device, overrides, place=None))
    for note in notes(run.runner.env):
        display.say(note)
    display.console.print(sizes(cfg, run, steps, again, need, free), soft_wrap=True)
    if applies(run.algorithm):
        larger = cfg.parallel / few * again
        small = Played(rollout, played.seconds, larger, run.runner.env.backend)
        display.console.print(plan(cfg, device, small, began), soft_wrap=True)
    if cfg.processes > 1:
        display.say(share(cfg, run))


def share(cfg: DictConfig, run: Run) -> str:
    """What each of several processes has of what was measured in one."""
    megabytes = sum(it.numel() * it.element_size() for it in run.algorithm.parameters.values()) / 1e6
    fewest, most = cfg.parallel // cfg.processes, -(-cfg.parallel // cfg.processes)
    plays = f"{fewest}" if fewest == most else f"{fewest} or {most}"
    return (
        f"All this is what one process takes. Each of {cfg.processes} plays {plays} of {cfg.parallel} environments, "
        f"holds the whole rollout, and computes 1/{cfg.processes} of each gradient. For every minibatch it sends "
        f"{megabytes:.3g} MB, and gets as much from each of the others; that time comes on top."
    )


def plan(cfg: DictConfig, device: Device, small: Played, began: float) -> str:
    """What the run would take with each bptt_length, as a table.

    small   played by few environments, and by how much that is less than a rollout of the run
    began   when the clock was read
    """
    with_all = with_values(cfg, {"parallel": cfg.parallel})
    quick = small.larger * small.seconds < PLAYING and (perf_counter() - began) * small.larger < SECONDS
    if not quick and cfg.rollout_length:
        small = _played_together(cfg, device, small)
    run = build(with_all if quick else with_values(cfg, {"parallel": small.rollout.valid.shape[1]}), device)
    with closing(run.runner.env):
        before = core_seconds()
        played = _played(run) if quick else small
        found = list(ways(run, played, cfg.parallel, perf_counter() + SECONDS - PLAYING))
        computed, waited = (now - then for now, then in zip(core_seconds(), before, strict=True))
    # That of few environments would play fewer episodes.
    return table(cfg, found, played, budget_of(cfg)) + said_of_waiting(computed, waited, run.runner.env.backend)


def _played_together(cfg: DictConfig, device: Device, small: Played) -> Played:
    """The same rollout, with the time that all environments take for it together: many at once take less than each.

    Only where they are one program, or one vector form, and so quickly built.
    """
    short = max(SHORT, cfg.rollout_length // 8)
    if small.backend not in ("", "vector") or short >= cfg.rollout_length:
        return small
    run = build(with_values(cfg, {"rollout_length": short}), device)
    with closing(run.runner.env):
        seconds = _played(run).seconds * cfg.rollout_length / short
    return replace(small, seconds=seconds / small.larger)


def _played(run: Run) -> Played:
    """A rollout of all environments; the second, as the first one sets up what others use."""
    run.runner.collect()
    began = perf_counter()
    rollout = run.runner.collect()
    return Played(rollout, perf_counter() - began)
