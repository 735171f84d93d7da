"""Train with the flat YAML files and flags of the configuration guide.

python scripts/train.py --config config/train_config.yml --episodes 100
python scripts/train.py --episodes 1 --parallel 1 --device cpu

Prints the equivalent command, `python -m seqrl.train ...`, and runs it. You may add any of its overrides.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys

# Ctrl-C ends it without a word, while it imports, too.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from seqrl.config.guide import FLAGS, translate  # noqa: E402
from seqrl.errors import ConfigError  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [--config FILE] [--flag VALUE ...] [key=value ...]",
        allow_abbrev=False,
    )
    # argparse must not reject a flag without a value: all faults are reported at once.
    parser.add_argument("--config", nargs="?", const="", metavar="FILE", help="flat YAML file")
    parser.add_argument("--print", action="store_true", help="print the command, do not run it")
    for key, flag in FLAGS.items():
        spellings = dict.fromkeys([flag, f"--{flag[2:].replace('_', '-')}"])
        parser.add_argument(*spellings, dest=key, nargs="?", const="", metavar="VALUE")
    given, others = parser.parse_known_args()
    flags = {key: text for key in FLAGS if (text := getattr(given, key)) is not None}
    try:
        overrides = translate(given.config, flags, others)
    except ConfigError as error:
        for fault in error.faults:
            print(f"seqrl: error: {fault}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(shlex.join(["python", "-m", "seqrl.train", *overrides]), flush=True)
    if not given.print:
        # In place of this process, so that it ends as that command does. -P: no import from the working folder.
        options = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        os.execv(sys.executable, [sys.executable, *options, "-P", "-m", "seqrl.train", *overrides])


if __name__ == "__main__":
    main()
