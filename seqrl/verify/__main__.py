"""Check the environment and the network of a configuration: `python -m seqrl.verify [any arguments of seqrl.train]`.

Prints for each check how it ended, what was measured, and what to do about it. Takes about 20 seconds, and longer for
slow environments. Writes no files. Environments are played in this process and in one more, also if env.backend=async.

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

import hydra
from omegaconf import DictConfig

from seqrl.config.paths import CONF
from seqrl.config.program import FAILURES, fail, started
from seqrl.config.settle import settle
from seqrl.text import say
from seqrl.verify import environment, network
from seqrl.verify.findings import Check, Finding, Status
from seqrl.verify.run import verify


def table(findings: Sequence[Finding]) -> str:
    """A line for each finding, with the remedy below those that did not pass, and a line that counts them."""
    lines = []
    for finding in findings:
        lines.append(f"  {finding.status:11}  {finding.name:42}  {finding.figure}")
        if finding.status is not Status.PASS:
            lines.append(f"               -> {finding.remedy}")
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
    return "\n".join([*lines, f"\n  {good} of {len(findings)} hold{''.join(others)}"])


def usage() -> str:
    """What this program does, and a line for each check."""

    def listed(checks: Sequence[Check]) -> str:
        return "\n".join(f"  {it.name:42}  {(it.measure.__doc__ or '').splitlines()[0]}" for it in checks)

    return f"{__doc__}\nThe environment:\n\n{listed(environment.CHECKS)}\n\nThe network:\n\n{listed(network.CHECKS)}"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> None:
    try:
        findings = verify(settle(cfg).cfg)
    except Exception as error:
        fail(error)
    say(table(findings))
    FAILURES.add(not all(finding.is_good for finding in findings))


def main() -> None:
    """Entry point of `python -m seqrl.verify`."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(usage())
        return
    started(job, leave_nothing=True)
    sys.exit(FAILURES.worst)


if __name__ == "__main__":
    main()
