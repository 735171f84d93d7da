"""What can be run: `python -m seqrl`."""

import sys
from functools import partial

import seqrl
from seqrl.config.program import errors_in_one_line, to_the_end
from seqrl.errors import ConfigError
from seqrl.text import nearest

PROGRAMS = {
    "train": "train an agent; with -m, a sweep",
    "evaluate": "play fresh episodes with the policy of a run, and see whether its memory matters",
    "inspect": "say in figures what the memory of a run's policy does",
    "export": "write the policy of a run as an ONNX model, for use without seqrl and torch",
    "report": "compare runs on a page: curves, tables, which differences are real",
    "tune": "search for good values",
    "verify": "check an environment, or a network of your own",
    "runs": "list runs",
    "envs": "list environments",
}


def main() -> None:
    words = sys.argv[1:]
    with errors_in_one_line():
        if not words or words[0] in ("-h", "--help"):
            print(f"seqrl {seqrl.__version__}: reinforcement learning for agents that must remember.\n")
            for name, purpose in PROGRAMS.items():
                print(f"  python -m seqrl.{name:9} {purpose}")
            print("\n--help after any of these says more. From Python: import seqrl.")
        else:
            name = words[0].removeprefix("seqrl.")
            meant = f" Run python -m seqrl.{name}." if name in PROGRAMS else nearest(name, list(PROGRAMS))
            raise ConfigError([f"{words[0]}: is not an option of seqrl.{meant} python -m seqrl lists the programs."])


program = partial(to_the_end, main)

if __name__ == "__main__":
    program()
