"""Programs in processes of their own, as a user starts them, without the second that each would need to import torch.

A process that has imported what the programs need stands by and forks itself for each of them. What runs has an id, a
session, a folder, an environment and an exit code of its own, and ends as Python ends. Only a real start, by
`subprocess`, shows how Python itself starts, and that nothing depends on the order of a set: forks hash alike.
"""

import atexit
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Timer

NAMES = (
    "seqrl.train",
    *(f"seqrl.{name}.__main__" for name in ("evaluate", "export", "inspect", "report", "runs", "tune", "verify")),
)
# What comes after `serve` is done by the forks.
SERVER = f"""
import atexit, contextlib, importlib, runpy, sys, types
from os import _exit

# Registered before all others, and so called after them: Python would now take every module apart, which takes a third
# of a second, as each page of memory that processes share is copied. What cannot be written is for Python to say.
code = 0

@atexit.register
def end():
    with contextlib.suppress(Exception):
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            if stream is not None and not stream.closed:
                stream.flush()
        _exit(code)

import tests.programs, tests.remembered
import rich._emoji_codes, tensorboard.plugins.hparams.api_pb2, torch.utils.tensorboard
for name in {NAMES}:
    importlib.import_module(name)
    del sys.modules[name]
tests.remembered.begin()
words = tests.programs.serve(int(sys.argv[1]))
try:
    if words[0] == "-m":
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), vars(sys.modules["__main__"]))
    else:
        runpy.run_path(words[0], run_name="__main__")
except SystemExit as error:
    code = error.code if isinstance(error.code, int) else int(error.code is not None)
    raise
except KeyboardInterrupt:
    # Python ends by the signal.
    code = None
    raise
except BaseException:
    code = 1
    raise
"""
# Length of what is told of a program: that it has begun, or ended.
TOLD = 20


class Program:
    """A Python program that runs; `subprocess.Popen` would have it with pipes, as text, in a session of its own.

    folder   that it runs in
    words    -m and a module, -c and code, or a file; its arguments
    env      its environment; None: this one
    """

    def __init__(self, folder: Path, *words: str, env: dict[str, str] | None = None) -> None:
        self.returncode: int | None = None
        (out, to_out), (err, to_err), (self._told, to_tell) = os.pipe(), os.pipe(), os.pipe()
        with tempfile.TemporaryFile() as request:
            told = {"words": words, "folder": str(folder), "env": dict(os.environ if env is None else env)}
            request.write(json.dumps(told).encode())
            request.flush()
            socket.send_fds(server(), [b"x"], [request.fileno(), to_out, to_err, to_tell])
        for end in (to_out, to_err, to_tell):
            os.close(end)
        self.stdout, self.stderr = os.fdopen(out), os.fdopen(err)
        self.pid = hear(self._told, "begun")

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout.close()
        self.stderr.close()
        self.wait()

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = hear(self._told, "ended")
            os.close(self._told)
        return self.returncode

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """What it prints and says, to the end of the last process that could; that is killed after so many seconds."""
        timer = Timer(timeout, os.killpg, (self.pid, signal.SIGKILL))
        timer.start()
        try:
            with ThreadPoolExecutor(1) as pool:
                errors = pool.submit(self.stderr.read)
                printed = self.stdout.read()
            self.wait()
        finally:
            timer.cancel()
            timer.join()
        return printed, errors.result()


def run_program(folder: Path, *words: str, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """A program from its start to its end, as `subprocess.run` would have it."""
    with Program(folder, *words, env=env) as program:
        printed, errors = program.communicate()
    return subprocess.CompletedProcess(words, program.returncode, printed, errors)


@cache
def server() -> socket.socket:
    """Where requests go; it ends with this process."""
    mine, its = socket.socketpair()
    command = [sys.executable, "-W", "error::DeprecationWarning:seqrl", "-c", SERVER, str(its.fileno())]
    root = Path(__file__).parent.parent
    process = subprocess.Popen(command, cwd=root, stdin=subprocess.DEVNULL, pass_fds=[its.fileno()])
    its.close()

    def end() -> None:
        mine.close()
        process.wait()

    atexit.register(end)
    return mine


def serve(requests: int) -> list[str]:
    """In the process that stands by: fork for every request, and return in the fork what it is to run."""
    gc.freeze()
    with socket.socket(fileno=requests) as inbox:
        while True:
            _, ends, _, _ = socket.recv_fds(inbox, 1, 4)
            # Those that are done count among the processor time of the tests.
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG if ends else 0)[0]:
                    pass
            if not ends:
                os._exit(0)
            if os.fork() == 0:
                break
            for end in ends:
                os.close(end)
    request, out, err, to_tell = ends
    if program := os.fork():
        # One that waits for the program and says how it ended.
        os.closerange(0, to_tell)
        _, status = os.waitpid(program, 0)
        tell(to_tell, "ended", os.waitstatus_to_exitcode(status))
        os._exit(0)
    with open(request) as file:
        file.seek(0)
        told = json.load(file)
    os.setsid()
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.close(out)
    os.close(err)
    os.environ.clear()
    os.environ.update(told["env"])
    words = told["words"]
    sys.orig_argv = [sys.executable, *words]
    sys.argv = words[1:] if words[0] in ("-m", "-c") else words
    sys.path[0] = {"-m": told["folder"], "-c": ""}.get(words[0], os.path.dirname(words[0]))
    tell(to_tell, "begun", os.getpid())
    os.close(to_tell)
    os.chdir(told["folder"])
    return words


def tell(end: int, what: str, number: int) -> None:
    os.write(end, f"{what} {number}".ljust(TOLD).encode())


def hear(end: int, expected: str) -> int:
    """The process id of a program that has begun, or the exit code of one that has ended."""
    what, _, number = os.read(end, TOLD).decode().partition(" ")
    # An exit code that is taken for a process id would have signals sent to another process.
    if what != expected:
        raise RuntimeError(f"the program has not {expected}: {what} {number}")
    return int(number)
