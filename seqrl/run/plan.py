"""What each bptt_length would take, from a few measured shapes, before a run begins."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch
from omegaconf import DictConfig

from seqrl.algorithms.base import SequenceAlgorithm, SingleSteps
from seqrl.algorithms.sequences import Sequences, balanced, split, starts
from seqrl.machine import forget_peak_memory, give_memory_back, peak_memory_mb, perf_counter
from seqrl.run.memory_need import USABLE, Footprint, footprint, free_bytes, is_out_of_memory
from seqrl.run.run import Budget, Run
from seqrl.text import duration
from seqrl.types import Rollout

# Seconds that all measurements may take together, and those of playing among them.
SECONDS = 10.0
PLAYING = 3.0
# Seconds that a gradient step is repeated for.
TRYING = 0.8
# Lengths that are tried beside the run's own, where episodes are longer.
LENGTHS = (8, 16, 32, 64, 128, 256)
# Share of the time waited for a core, beyond which speeds are said to be too low.
BUSY = 0.1
# Share by which a run that takes longer as its episodes grow is said to do so.
WORTH_SAYING = 0.1
# A length is recommended that takes at most so many times as long as the quickest.
SLOWER = 1.25


@dataclass(frozen=True)
class Way:
    """What a run with one bptt_length would take; 0: whole episodes.

    megabytes, steps_per_second   None: not measured, because it would not fit, or for want of time
    grown                         steps per second once episodes are as long as a rollout; None: the same, or not known
    """

    bptt_length: int
    megabytes: float | None
    steps_per_second: float | None
    fits: bool
    grown: float | None = None

    @property
    def lasting(self) -> float:
        """Steps per second that the run keeps up, whatever it learns."""
        return min(it for it in (self.steps_per_second, self.grown, math.inf) if it is not None)


@dataclass(frozen=True)
class Played:
    """A rollout as the run would play it.

    seconds   that it took
    larger    rollouts of the run have so many times its steps, and take as many times as long
    backend   of its environments
    """

    rollout: Rollout
    seconds: float
    larger: float = 1.0
    backend: str = ""

    @property
    def steps(self) -> float:
        return self.larger * float(self.rollout.valid.sum())


def ways(run: Run, played: Played, parallel: int, until: float) -> Iterator[Way]:
    """What each bptt_length would take. The run is spoilt by it: its network learns.

    parallel   environments of the run that is planned
    until      the clock's reading at which to stop
    """
    algorithm, own = run.algorithm, run.algorithm.settings
    longest = int(played.rollout.age[played.rollout.valid].max()) + 1
    lengths = [0, *sorted({it for it in (*LENGTHS, own.bptt_length) if 0 < it < longest})]
    memory = PeakMemory(played.rollout.reward.device)
    longer = grown(played.rollout) if run.runner.rollout_length else None
    # Its own first, as that must be there.
    for length in sorted(lengths, key=lambda it: it != own.bptt_length):
        algorithm.settings = replace(own, bptt_length=length)
        try:
            way = _way(algorithm, played, parallel, length, until, memory)
            if longer is not None and not length and way.steps_per_second:
                slower = _way(algorithm, replace(played, rollout=longer), parallel, length, until, memory)
                way = replace(way, grown=slower.steps_per_second)
            yield way
        finally:
            algorithm.settings = own


def _way(
    algorithm: SequenceAlgorithm, played: Played, parallel: int, length: int, until: float, memory: "PeakMemory"
) -> Way:
    rollout = with_any_memory(algorithm, played.rollout, length)
    here = rollout.valid.shape[1]
    need = footprint(algorithm, rollout, parallel, max(1, round(played.larger * here / parallel)))
    free = free_bytes(rollout.reward.device)
    if free is not None and need.megabytes * 1e6 > USABLE * free:
        return Way(length, None, None, fits=False)
    if perf_counter() > until:
        return Way(length, None, None, fits=True)
    try:
        seconds, megabytes = _learned(algorithm, rollout, parallel, need, memory)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return Way(length, None, None, fits=False)
    whole = played.larger * played.seconds + algorithm.settings.epochs * seconds * played.steps / need.minibatch
    # The rollout is there twice: as it was played, and in sequences.
    more = 2 * (played.larger - 1) * bytes_of(rollout) / 1e6
    return Way(length, megabytes + more, played.steps / whole, fits=True)


def _learned(
    algorithm: SequenceAlgorithm, rollout: Rollout, parallel: int, need: Footprint, memory: "PeakMemory"
) -> tuple[float, float]:
    """Seconds that a gradient step takes, and the most memory, in MB, that the process holds meanwhile."""
    sequences = split(rollout, rollout.value, rollout.value, algorithm.settings.bptt_length)
    steps = len(sequences.advantage)
    minibatch = _about(sequences, min(need.minibatch, steps))
    share = len(minibatch.advantage) / need.minibatch
    seconds: list[float] = []
    # The first one is slow: it sets up what the others use.
    for _ in range(12):
        if len(seconds) == 1:
            memory.forget()
        began = perf_counter()
        algorithm.learn_from(minibatch, algorithm.chunk_steps(parallel), 0.0)
        wait(rollout.reward.device)
        seconds.append((perf_counter() - began) / share)
        if sum(seconds[1:]) * share > TRYING:
            break
    at_once = min(len(minibatch.advantage), need.steps)
    more = max(0, need.steps - at_once) * need.bytes_per_step / 1e6
    return median(seconds[1:] or seconds), memory.megabytes + more


def _about(sequences: Sequences, steps: int) -> Sequences:
    """Some of the sequences, drawn as a minibatch is, with about so many steps."""
    count = max(1, round(len(sequences.advantage) / steps))
    return sequences.select(next(balanced(sequences.length, count, np.random.default_rng(0))))


def with_any_memory(algorithm: SequenceAlgorithm, rollout: Rollout, length: int) -> Rollout:
    """The rollout with a memory wherever a sequence may begin with one: zeros, as numbers don't matter for the cost."""
    begins = starts(rollout.age, length) & (rollout.age > 0)
    index = torch.full_like(rollout.age, -1)
    index[begins] = torch.arange(int(begins.sum()), device=index.device)
    state = algorithm.network.initial_state(max(1, int(begins.sum())))
    return replace(rollout, state=state, state_index=index)


def grown(rollout: Rollout) -> Rollout | None:
    """A rollout of so many steps as if no episode had ended in it; None if none has, or if all are equally long.

    As a policy learns, its episodes may grow. Memory then walks through longer sequences, and fewer of them side by
    side, which takes longer: much longer, where a step of memory costs almost the same for one row as for many.
    """
    lengths = rollout.age[rollout.ended & rollout.valid]
    if len(lengths.unique()) < 2:
        return None
    age = torch.arange(len(rollout.age), device=rollout.age.device, dtype=rollout.age.dtype)
    return replace(rollout, age=age.unsqueeze(1).expand_as(rollout.age).contiguous())


def bytes_of(rollout: Rollout) -> int:
    tensors = (rollout.observation, rollout.action, *rollout.state.values())
    # Ten more numbers for every step.
    return sum(it.nbytes for it in tensors) + 40 * rollout.valid.numel()


def applies(algorithm: SequenceAlgorithm) -> bool:
    """Whether bptt_length means something: a network that remembers, and learns through time."""
    return not isinstance(algorithm, SingleSteps) and bool(algorithm.network.initial_state(1))


def recommended(found: Iterable[Way]) -> Way | None:
    """The longest that fits and takes little longer than the quickest."""
    measured = [it for it in found if it.fits and it.steps_per_second]
    quickest = max((it.lasting for it in measured), default=0.0)
    return _longest(it for it in measured if SLOWER * it.lasting >= quickest)


def _longest(found: Iterable[Way]) -> Way | None:
    return max(found, key=lambda it: it.bptt_length or math.inf, default=None)


def table(cfg: DictConfig, found: list[Way], played: Played, budget: Budget) -> str:
    """The plan: a row for each bptt_length."""
    fits, best = _longest(it for it in found if it.fits), recommended(found)
    own = cfg.algorithm.bptt_length
    # No sequence is longer: what was measured as whole ones is what it does.
    is_whole = own not in {it.bptt_length for it in found}
    lines = ["  bptt_length   peak memory   steps/s   time of this run"]
    for way in sorted(found, key=lambda it: it.bptt_length or math.inf):
        name = f"{way.bptt_length}" if way.bptt_length else "0: whole"
        memory = "does not fit" if not way.fits else "?" if way.megabytes is None else f"{way.megabytes:,.0f} MB"
        speed = f"{way.steps_per_second:,.0f}" if way.steps_per_second else "?"
        time = duration(_steps(cfg, played, budget) / way.steps_per_second) if way.steps_per_second else "?"
        notes = ["as you have it"] if way.bptt_length == (0 if is_whole else own) else []
        notes += ["the longest that fits"] if way is fits else []
        notes += ["recommended"] if way is best else []
        lines.append(f"  {name:<13} {memory:>11}   {speed:>7}   {time:>12}   {', '.join(notes)}".rstrip())
    if is_whole:
        lines.append(
            f"  No sequence here is longer than {own} steps: bptt_length={own} does what 0 does, as long as that holds."
        )
    for way in found:
        if way.grown and way.steps_per_second and (1 + WORTH_SAYING) * way.grown < way.steps_per_second:
            # Of so many episodes, nobody knows how many steps they would be then.
            time = (
                "" if budget.episodes_to_end else f", {duration(_steps(cfg, played, budget) / way.grown)} for this run"
            )
            filled = f"Where episodes fill a rollout of {cfg.rollout_length:,} steps"
            lines.append(f"  {filled}, 0: whole does {way.grown:,.0f} steps/s{time}.")
    return "\n".join(lines) + "\n"


def said_of_waiting(computed: float, waited: float, backend: str) -> str:
    """What to know of speeds that were measured on a machine that others kept busy; "" if they did not.

    computed, waited   seconds on a core, and for one, meanwhile
    """
    share = waited / (computed + waited) if waited > 0 else 0.0
    # Environments in processes of their own take cores from this one in the run, too.
    if share < BUSY or backend == "async":
        return ""
    return f"  The machine was busy: {share:.0%} of this was waiting for a core. On a quiet one the run is faster.\n"


def _steps(cfg: DictConfig, played: Played, budget: Budget) -> float:
    """Environment steps of the run, if episodes remain as long as they are."""
    limits = [math.inf if budget.steps_to_take is None else float(budget.steps_to_take)]
    if budget.episodes_to_end is not None:
        episodes = float((played.rollout.ended & played.rollout.valid).sum())
        limits.append(budget.episodes_to_end * float(played.rollout.valid.sum()) / max(1.0, episodes))
    return min(limits)


class PeakMemory:
    """Most memory, in MB, that is held while something is measured: of the GPU, or of the process.

    What earlier measurements left behind does not count: each leaves some, whatever it measures.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._at_first: float | None = None
        self._left_behind = 0.0

    def forget(self) -> None:
        """Begin to measure."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            can = True
        else:
            give_memory_back()
            can = forget_peak_memory()
        held = self._peak()
        if self._at_first is None:
            self._at_first = held
        # Where nothing can be forgotten, this is the most that was ever held.
        self._left_behind = held - self._at_first if can else 0.0

    @property
    def megabytes(self) -> float:
        return self._peak() - self._left_behind

    def _peak(self) -> float:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 1e6
        return peak_memory_mb()


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
