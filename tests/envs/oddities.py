"""An environment that is as odd as it is told: what it returns, what its spaces are, and what it does, and where.

A test copies this file beside a user's work. An oddity is `name@place`: `nan@observation`, `exit@step`, `empty@space`.
"""

import atexit
import contextlib
import ctypes
import gc
import inspect
import itertools
import locale
import logging
import logging.config
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import warnings

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

SEEN = spaces.Box(-1.0, 1.0, (3,))


class Shown(Exception):  # noqa: N818  # an environment's own
    """Cannot say what it is."""

    def __str__(self):
        raise ValueError("no words")


class Says(Exception):  # noqa: N818
    """Does something when it is asked what it is."""

    def __init__(self, deed):
        super().__init__()
        self.deed = deed

    def __str__(self):
        return self.deed()


class Unheard(BaseException):
    """No exception that anybody expects."""


class Unreadable:
    """Has the shape of an observation, and fails when it is read."""

    shape, dtype = (3,), np.dtype(np.float32)

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("the sensor is gone")


class Metres(np.ndarray):
    """An array with rules of its own."""

    def __array_ufunc__(self, *given, **named):
        raise TypeError("units do not match")

    def __array_function__(self, *given, **named):
        raise TypeError("no function of metres")


def raises(error):
    def deed(env):
        raise error

    return deed


def from_itself(env):
    error = ValueError("the map is broken")
    raise error from error


def in_a_ring(env):
    error, other = RuntimeError("a"), RuntimeError("b")
    error.__cause__, other.__cause__ = other, error
    raise error


def fork(env):
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.01,))
    child.start()
    child.join()


def leave(env):
    """Leave a process that ends with nobody waiting for it."""
    if os.fork() == 0:
        time.sleep(0.2)
        os._exit(0)


def thread(env):
    threading.Thread(target=time.sleep, args=(0.2,), daemon=True).start()


def fail_in_thread(env):
    threading.Thread(target=raises(RuntimeError("in a thread")), args=(env,)).start()


def torch_settings(env):
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(2)
    torch.manual_seed(0)


def more_settings(env):
    torch.autocast("cpu", dtype=torch.bfloat16).__enter__()
    torch.nn.modules.module.register_module_forward_hook(lambda module, given, made: None)
    with contextlib.suppress(OSError):
        ctypes.CDLL("libm.so.6").fesetround(0x800)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def loud(env):
    print("[bold]noise[/bold] \x1b[31m", "ü" * 10, flush=True)
    print("noise", file=sys.stderr)
    logging.getLogger("odd").error("noise")


def signals(env):
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)


def globals_of_numpy(env):
    np.random.seed(0)
    random.seed(0)
    np.seterr(all="raise")


def loggers(env):
    logging.disable(logging.CRITICAL)
    logging.getLogger().handlers.clear()


def speak_c(env):
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_ALL, "C")


def shallow(env):
    """Let functions call one another no deeper than here."""
    sys.setrecursionlimit(len(inspect.stack(0)) + 5)


def mutate(env):
    """Write to the last action and to the last observation."""
    for array in (env.action, env.shown):
        if isinstance(array, np.ndarray) and array.flags.writeable:
            array[...] = 0


DEEDS = {
    "exit": raises(SystemExit(3)),
    "exit quietly": raises(SystemExit),
    "interrupt": raises(KeyboardInterrupt()),
    "generator": raises(GeneratorExit()),
    "stop": raises(StopIteration()),
    "assert": raises(AssertionError()),
    "key": raises(KeyError("[/bold]")),
    "memory": raises(MemoryError()),
    "recursion": raises(RecursionError("too deep")),
    "group": raises(ExceptionGroup("two", [ValueError("a\nb"), TypeError("c")])),
    "wordless": raises(Shown()),
    "number": raises(Says(lambda: 7)),
    "words that exit": raises(Says(lambda: sys.exit(0))),
    "words that wait": raises(Says(lambda: time.sleep(1000))),
    "many words": raises(ValueError("x" * 30_000_000)),
    "strange words": raises(ValueError("bad \udcff \x1b[2J \u202e name")),
    "from itself": from_itself,
    "ring": in_a_ring,
    "unheard": raises(Unheard("hm")),
    "file": raises(FileNotFoundError(2, "No such file", "/nowhere/map.bin")),
    "pipe": raises(BrokenPipeError(32, "Broken pipe")),
    "eof": raises(EOFError()),
    "timeout": raises(TimeoutError("the server")),
    "fork": fork,
    "leave": leave,
    "thread": thread,
    "fail in thread": fail_in_thread,
    "torch": torch_settings,
    "more settings": more_settings,
    "loud": loud,
    "signals": signals,
    "numpy": globals_of_numpy,
    "loggers": loggers,
    "configured loggers": lambda env: logging.config.dictConfig({"version": 1}),
    "traced": lambda env: sys.settrace(lambda *_: None),
    "move": lambda env: os.chdir("/"),
    "warn": lambda env: warnings.warn("odd\nindeed", stacklevel=1),
    "strict": lambda env: warnings.simplefilter("error"),
    "mutate": mutate,
    "no stdout": lambda env: setattr(sys, "stdout", None),
    "closed stdout": lambda env: sys.stdout and sys.stdout.close(),
    "no environment": lambda env: os.environ.clear(),
    "shallow": shallow,
    "no modules": lambda env: sys.path.clear() or sys.meta_path.clear(),
    "no garbage": lambda env: gc.disable(),
    "private": lambda env: os.umask(0o077),
    "locale": speak_c,
    "slow": lambda env: time.sleep(0.05),
    "last word": lambda env: atexit.register(os._exit, 1),
    "own env": lambda env: setattr(env, "env", env),
    # Only where it has a process of its own.
    "die": lambda env: multiprocessing.parent_process() and os._exit(7),
    "kill": lambda env: multiprocessing.parent_process() and os.kill(os.getpid(), signal.SIGKILL),
}
PLACES = ["init", "reset", "step", "render", "close"]

OBSERVATIONS = {
    "float64": lambda it: it.astype(np.float64),
    "list": lambda it: it.tolist(),
    "tensor": torch.tensor,
    "column": lambda it: it[:, None],
    "short": lambda it: it[:2],
    "number": lambda it: 0.5,
    "none": lambda it: None,
    "nan": lambda it: it * np.nan,
    "infinite": lambda it: it + np.inf,
    "huge": lambda it: it + np.float32(3e38),
    "outside": lambda it: it + 7,
    "whole": lambda it: it.astype(np.int64),
    "text": lambda it: "abc",
    "texts": lambda it: np.array(["a", "b", "c"]),
    "objects": lambda it: np.array([it, None, 1], dtype=object),
    "ragged": lambda it: [[1], [1, 2]],
    "dict": lambda it: {"a": it},
    "strided": lambda it: np.repeat(it, 2)[::2],
    "read only": lambda it: np.broadcast_to(it[:1], 3),
    "masked": lambda it: np.ma.masked_array(it, [True, False, False]),
    "complex": lambda it: it * 1j,
    "learning": lambda it: torch.tensor(it, requires_grad=True),
    "half": lambda it: torch.tensor(it).bfloat16(),
    "unreadable": lambda it: Unreadable(),
    "metres": lambda it: it.view(Metres),
    "beyond": lambda it: it.astype(np.float64) * 1e300,
}
REWARDS = {
    "nan": np.nan,
    "infinite": np.inf,
    "none": None,
    "text": "1.5",
    "word": "much",
    "one": np.ones(1),
    "two": np.ones(2),
    "bool": True,
    "tensor": torch.tensor(1.0),
    "huge": 1e300,
    "complex": 1j,
    "list": [1.0],
}
ENDS = {
    "numpy": np.bool_(True),
    "whole": 1,
    "none": None,
    "word": "no",
    "one": np.array([True]),
    "two": np.array([True, False]),
    "nan": np.nan,
    "tensor": torch.tensor(True),
}
# How a vector form says which episodes ended.
TRUTHS = {
    "bytes": lambda ended: ended.astype(np.uint8),
    "whole": lambda ended: ended.astype(np.int64),
    "real": lambda ended: ended.astype(np.float64),
    "list": lambda ended: ended.tolist(),
    "objects": lambda ended: ended.astype(object),
    "tensor": torch.tensor,
    "two": lambda ended: ended * 2,
    "nan": lambda ended: np.where(ended, np.nan, 0.0),
    "words": lambda ended: np.where(ended, "yes", "no"),
    "none": lambda ended: None,
    "one": lambda ended: ended.any(),
    "column": lambda ended: ended[:, None],
    "read only": lambda ended: np.broadcast_to(ended[:1], ended.shape),
}
INFOS = {
    "none": None,
    "list": [],
    "final": {"final_obs": np.ones(3)},
    "mask": {"action_mask": np.zeros(2)},
    "keys": {1: 2, None: 3},
    "self": {"env": object()},
}
ANSWERS = {
    "four": lambda it: it[:4],
    "six": lambda it: (*it, 1),
    "list": list,
    "none": lambda it: None,
    "generator": iter,
    "one": lambda it: it[0],
}
SPACES = {
    "none": None,
    "class": spaces.Box,
    "empty": spaces.Box(-1, 1, (0,)),
    "scalar": spaces.Box(-1, 1, ()),
    "one choice": spaces.Discrete(1),
    "late choices": spaces.Discrete(3, start=-5),
    "text": spaces.Text(5),
    "sequence": spaces.Sequence(spaces.Discrete(2)),
    "dict": spaces.Dict({"a": SEEN, "b": spaces.Discrete(2)}),
    "empty dict": spaces.Dict({}),
    "empty tuple": spaces.Tuple(()),
    "nested": spaces.Tuple((spaces.Dict({"a.b": spaces.MultiBinary(2)}), spaces.MultiDiscrete([[2, 3], [1, 2]]))),
    "unbounded": spaces.Box(-np.inf, np.inf, (2,)),
    "half bounded": spaces.Box(np.array([0, -np.inf], np.float32), np.array([np.inf, 1], np.float32)),
    "huge": spaces.Box(-3.4e38, 3.4e38, (2,)),
    "point": spaces.Box(1, 1, (2,)),
    "bytes": spaces.Box(0, 255, (8, 8, 3), np.uint8),
    "whole": spaces.Box(-5, 5, (2,), np.int64),
    "graph": spaces.Graph(SEEN, None),
    "switches": spaces.MultiBinary([2, 2]),
}


class Odd(gym.Env):
    """Episodes of four steps, and oddities from the second episode on, or from the start where `early`."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012  # as Gymnasium has it

    def __init__(self, odd=(), early=True, render_mode=None):
        self.odd = dict(reversed(it.split("@")) for it in odd)
        self.early, self.render_mode, self.episode = early, render_mode, 0
        self.action = self.shown = None
        self.observation_space = SPACES[self.odd["space"]] if "space" in self.odd else SEEN
        self.action_space = SPACES[self.odd["actions"]] if "actions" in self.odd else spaces.Discrete(2)
        self.do("init")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.clock, self.episode = 0, self.episode + 1
        self.do("reset")
        answer = self.seen(), self.get("info", INFOS, {})
        return self.made("begin", answer)

    def step(self, action):
        self.action = action
        self.clock += 1
        self.do("step")
        answer = (self.seen(), self.get("reward", REWARDS, 1.0), self.get("end", ENDS, self.clock == 4), False)
        return self.made("answer", (*answer, self.get("info", INFOS, {})))

    def seen(self):
        if "space" in self.odd:
            return self.observation_space.sample()
        self.shown = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return OBSERVATIONS[self.odd["observation"]](self.shown) if self.is_odd("observation") else self.shown

    def render(self):
        self.do("render")
        return np.zeros((8, 8, 3), np.uint8)

    def close(self):
        self.do("close")

    def is_odd(self, place):
        return place in self.odd and (self.early or self.episode > 1)

    def do(self, place):
        if self.is_odd(place):
            DEEDS[self.odd[place]](self)

    def get(self, place, values, usual):
        return values[self.odd[place]] if self.is_odd(place) else usual

    def made(self, place, answer):
        return ANSWERS[self.odd[place]](answer) if self.is_odd(place) else answer


class OddVector(VectorEnv):
    """A vector form with episodes of four or five steps, begun as `mode` has it; only how it says their ends is odd."""

    def __init__(self, num_envs, odd=(), early=True, mode="NEXT_STEP"):
        self.num_envs, self.mode, self.metadata = num_envs, mode, {"autoreset_mode": mode}
        self.truths, self.early = [TRUTHS[it.partition("@")[0]] for it in odd], early
        self.single_observation_space, self.single_action_space = SEEN, spaces.Discrete(2)
        self.observation_space = batch_space(SEEN, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def begin(self, where):
        self.ended[where], self.clock[where], self.early = False, np.arange(self.num_envs)[where] % 2, True

    def seen(self):
        return np.repeat(self.clock[:, None] / 5, 3, 1).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        if (where := (options or {}).get("reset_mask")) is None:
            self.clock, self.ended = np.zeros(self.num_envs, int), np.zeros(self.num_envs, bool)
            where, early = ~self.ended, self.early
            self.begin(where)
            self.early = early
        else:
            self.begin(where)
        return self.seen(), {}

    def step(self, actions):
        assert not (self.mode == "DISABLED" and self.ended.any()), "an ended episode was stepped"
        ghost = self.ended.copy()
        self.clock += 1
        if ghost.any():
            self.begin(ghost)
        ended, info = (self.clock == 5) & ~ghost, {}
        says = self.truths[0] if self.truths and self.early else np.copy
        if self.mode == "SAME_STEP" and ended.any():
            info = {"final_obs": self.seen()}
            self.begin(ended)
        else:
            self.ended = ended
        return self.seen(), (~ghost).astype(np.float32), says(ended), says(np.zeros_like(ended)), info


# All that can be odd, by place.
ODD = {
    "space": SPACES,
    "actions": SPACES,
    "observation": OBSERVATIONS,
    "reward": REWARDS,
    "end": ENDS,
    "info": INFOS,
    "begin": ANSWERS,
    "answer": ANSWERS,
    **dict.fromkeys(PLACES, DEEDS),
}
ALL = list(itertools.chain(*([f"{name}@{place}" for name in names] for place, names in ODD.items())))
# All that can be odd of a vector form, and when it begins episodes.
ALL_TRUTHS = [f"{name}@ends" for name in TRUTHS]
MODES = list(AutoresetMode.__members__)
if "Odd-v0" not in gym.registry:
    gym.register("Odd-v0", Odd, disable_env_checker=True)
    gym.register("OddVector-v0", vector_entry_point=OddVector)
