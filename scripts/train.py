"""Train with the configuration guide's flat YAML files and flags.

python scripts/train.py --config config/train_config.yml --episodes 1 --parallel 1 --device cpu --algorithm ppo

Says which `python -m seqrl.train ...` command it stands for, and runs it. Flags win over the file; overrides such as
env.id=Acrobot-v1 win over both.
"""

import shlex
import sys

from seqrl import train
from seqrl.errors import ConfigError
from seqrl.guide import command


def main() -> None:
    try:
        overrides, only_print = command(sys.argv[1:], __doc__)
    except ConfigError as error:
        train.fail(error)
    print(shlex.join(["python", "-m", "seqrl.train", *overrides]), flush=True)
    if not only_print:
        sys.argv[1:] = overrides
        train.main()


if __name__ == "__main__":
    main()
