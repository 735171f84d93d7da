"""Check the environment and the network of a configuration: `python -m seqrl.verify [any arguments of seqrl.train]`.

Prints for each check how it ended, what was measured, and what to do about it. Takes about 20 seconds; a slow
environment is played for fewer steps, and one that takes 0.2 s for a step is checked in about five minutes. Writes no
files. Environments are played in this process and in one more, also if env.backend=async.

  pass          holds
  FAIL          does not
  warn          can be trained with, but there is something that you should know
  NOT CHECKED   there was nothing to look at, for example because no episode ended

Checks that do not apply, such as those of memory for a network without memory, are left out. Exit code 0 if everything
that applies was checked and holds, with or without warnings; 1 if anything fails or could not be checked; 2 if the
configuration is wrong.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial

import hydra
from omegaconf import DictConfig

from seqrl.config.paths import CONF
from seqrl.config.program import FAILURES, fail, started, to_the_end
from seqrl.config.settle import settle
from seqrl.metrics.display import Bar, QuietConsole
from seqrl.text import docstring, printable
from seqrl.verify import environment, network
from seqrl.verify.findings import Check, Finding, Status
from seqrl.verify.run import verify


def line_of(finding: Finding) -> str:
    """A line, with the remedy below one that did not pass."""
    remedy = "" if finding.status is Status.PASS else f"\n               -> {finding.remedy}"
    return f"  {finding.status:11}  {finding.name:42}  {finding.figure}{remedy}"


def count_of(findings: Sequence[Finding]) -> str:
    """A line that counts them."""
    count = Counter(finding.status for finding in findings)
    good = count[Status.PASS] + count[Status.WARN]
    others = [
        f", {count[status]} {said}"
        for status, said in {
            Status.FAIL: "failed",
            Status.UNCHECKED: "not checked",
            Status.WARN: "with a warning",
        }.items()
        if count[status]
    ]
    return f"  {good} of {len(findings)} hold{''.join(others)}"


def usage() -> str:
    """What this program does, and a line for each check."""

    def listed(checks: Sequence[Check]) -> str:
        said = [(it.name, docstring(it.measure).splitlines()[0]) for it in checks]
        return "\n".join(f"  {name:42}  {line}" for name, line in said)

    of_environment, of_network = listed(environment.CHECKS), listed(network.CHECKS)
    return f"{docstring(__name__)}\nThe environment:\n\n{of_environment}\n\nThe network:\n\n{of_network}"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> None:
    findings = []
    checks = [it.name for it in (*environment.CHECKS, *network.CHECKS)]
    with Bar(console := QuietConsole()) as bar:

        def begin(name: str) -> None:
            bar.show((checks.index(name) if name in checks else len(checks)) / len(checks), name)

        try:
            for finding in verify(settle(cfg).cfg, begin):
                # At once: environments may be slow.
                console.print(printable(line_of(finding)), soft_wrap=True)
                findings.append(finding)
        except Exception as error:
            fail(error)
    console.print(printable(f"\n{count_of(findings)}"), soft_wrap=True)
    FAILURES.add(not all(finding.is_good for finding in findings))


def main() -> None:
    """What `python -m seqrl.verify` does; `program` ends the process, too."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(usage())
        return
    started(job, leave_nothing=True)
    sys.exit(FAILURES.worst)


program = partial(to_the_end, main)

if __name__ == "__main__":
    program()
