"""Check the environment and the network of a configuration: `python -m seqrl.verify [any arguments of seqrl.train]`.

Prints for each check whether it passes, what was measured, and what to do if it fails. Exit code 0 if all pass, else 1.
Writes no files.
"""

import sys
from dataclasses import replace

import hydra
import numpy as np
from omegaconf import DictConfig

from seqrl.config.paths import CONF
from seqrl.config.program import FAILURES, fail, started
from seqrl.config.settle import settle
from seqrl.envs import BatchedEnv
from seqrl.runs.build import constructor, make_device, make_env, make_network
from seqrl.verify.checks import Finding, env_checks, network_checks, played


def verify(cfg: DictConfig) -> list[Finding]:
    """Check the environment and the network of a configuration, on the CPU."""
    device = replace(make_device(cfg), name="cpu")
    device.prepare()

    env = make_env(cfg, device, 1, "verify")
    env.close()

    def make(batch_size: int, stream: str) -> BatchedEnv:
        return make_env(cfg, device, batch_size, stream, backend=env.backend)

    network = make_network(cfg, env, device)
    bptt_length = constructor(cfg.algorithm)(network, np.random.default_rng(0)).settings.bptt_length
    return [*env_checks(make), *network_checks(played(make, network, bptt_length))]


def table(findings: list[Finding]) -> str:
    """A line for each finding, with the remedy below those that failed."""
    lines = []
    for finding in findings:
        lines.append(f"  {'pass' if finding.passed else 'FAIL'}  {finding.name:42}  {finding.figure}")
        if not finding.passed:
            lines.append(f"        -> {finding.remedy}")
    failed = sum(not finding.passed for finding in findings)
    lines.append(f"\n  {len(findings) - failed} of {len(findings)} checks pass")
    return "\n".join(lines)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> None:
    try:
        findings = verify(settle(cfg).cfg)
    except Exception as error:
        fail(error)
    print(table(findings))
    FAILURES.add(not all(finding.passed for finding in findings))


def main() -> None:
    """Entry point of `python -m seqrl.verify`."""
    started(job, leave_nothing=True)
    sys.exit(FAILURES.worst)


if __name__ == "__main__":
    main()
