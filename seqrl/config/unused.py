"""What a command asks for and nothing reads."""

from collections.abc import Iterable, Iterator

from omegaconf import DictConfig, OmegaConf

from seqrl.config.naming import key_of
from seqrl.config.schema import CELLS, NetworkConfig
from seqrl.types import PARTS

OF_A_CELL = ["network.lstm_hidden_size", "network.horizon", "network.layers", "network.memory"]
OF_STORED_MEMORY = ["sequence_learning.stale_state", "sequence_learning.burn_in"]
# Beside attention.
HAVE_HEADS = (CELLS["matrix"], CELLS["gtrxl"])
HAVE_WINDOWS = (CELLS["gtrxl"],)
HAVE_NO_GATES = (CELLS["gtrxl"],)


def unused(cfg: DictConfig, overrides: Iterable[str]) -> list[str]:
    """The keys of a command that have no effect beside its other choices, a line each, with the reason."""
    reasons: dict[str, str] = {}
    for keys, reason in _reasons(cfg):
        for key in keys:
            reasons.setdefault(key, reason)
    asked = dict.fromkeys(map(key_of, overrides))
    return [
        f"{key} has no effect: {reason}."
        for key in asked
        for without_effect, reason in reasons.items()
        if f"{key}.".startswith(f"{without_effect}.")
    ]


def _reasons(cfg: DictConfig) -> Iterator[tuple[list[str], str]]:
    """Keys, and why nothing reads them."""
    network, learning = cfg.network, cfg.sequence_learning
    if OmegaConf.get_type(network) is NetworkConfig:
        if not (network.use_lstm or network.use_attention):
            of_memory = [*OF_STORED_MEMORY, "algorithm.memory_learning_rate", "evaluation.memoryless_control"]
            yield of_memory, "this network has no memory"
        if not network.use_lstm:
            yield OF_A_CELL, "this network has no memory cell"
            yield ["sequence_learning.bptt_length"], "this network has no memory that gradients can follow"
        cell = network.memory._target_ if network.use_lstm else None
        if cell in HAVE_NO_GATES:
            yield ["network.horizon"], "this cell has no gates that keep a memory"
        # A cell of the user's own may read what it likes.
        if not network.use_attention and cell in (None, *CELLS.values()):
            if cell not in HAVE_HEADS:
                yield ["network.heads"], "this network has no attention, and no cell with heads"
            if cell not in HAVE_WINDOWS:
                yield ["network.window"], "this network has no attention, and no cell with a window"
    if not learning.enabled:
        yield ["sequence_learning.bptt_length"], "sequence_learning.enabled is false"
    elif network.get("use_lstm", True) and not (learning.bptt_length or cfg.rollout_length):
        yield OF_STORED_MEMORY, "all sequences are whole episodes, which begin without memory"
    if learning.stale_state != "burn_in":
        yield ["sequence_learning.burn_in"], f"sequence_learning.stale_state is {learning.stale_state}, not burn_in"
    parts = cfg.algorithm.get("gradient_parts") or max(PARTS, cfg.processes)
    if (cfg.algorithm.get("gradient_threads") or 0) > -(-parts // cfg.processes):
        whose = f"processes={cfg.processes} share" if cfg.processes > 1 else "a gradient has"
        yield ["algorithm.gradient_threads"], f"{whose} algorithm.gradient_parts={parts}, each for one thread"
    if not cfg.evaluation.episodes:
        yield ["evaluation.greedy", "evaluation.memoryless_control"], "evaluation.episodes is 0"
    if cfg.rollout_length:
        why = f"rollout_length={cfg.rollout_length} says where rollouts end"
        yield ["rollout_steps", "rollout_rewards"], why
