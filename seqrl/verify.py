"""Check the environment and the network of a configuration: `python -m seqrl.verify [any arguments of seqrl.train]`.

Says for each thing that must hold whether it does, what was measured and what to do. Exit code 0 if all hold, else 1.
Leaves nothing behind.
"""

import sys
from dataclasses import replace

import hydra
import numpy as np
from omegaconf import DictConfig

from seqrl.build import built, make_env, make_network, settled
from seqrl.checks import Finding, env_checks, network_checks, played
from seqrl.configuration import CONF
from seqrl.devices import Device
from seqrl.envs import BatchedEnv
from seqrl.program import check, fail, started


def verify(cfg: DictConfig) -> list[Finding]:
    """What holds for the environment and the network of a configuration, on the CPU."""
    device: Device = replace(built(cfg.device)(), name="cpu")
    device.prepare()

    def make(batch_size: int, stream: str) -> BatchedEnv:
        return make_env(cfg, device, batch_size, stream)

    env = make(1, "verify")
    env.close()
    settled(cfg, env)
    network = make_network(cfg, env, device)
    bptt_length = built(cfg.algorithm)(network, np.random.default_rng(0)).bptt_length
    return [*env_checks(make), *network_checks(played(make, network, bptt_length))]


def table(findings: list[Finding]) -> str:
    """A line for each finding; under what failed, the remedy."""
    lines = []
    for finding in findings:
        lines.append(f"  {'pass' if finding.passed else 'FAIL'}  {finding.name:42}  {finding.figure}")
        if not finding.passed:
            lines.append(f"        -> {finding.remedy}")
    failed = sum(not finding.passed for finding in findings)
    lines.append(f"\n  {len(findings) - failed} of {len(findings)} hold")
    return "\n".join(lines)


failed: list[Finding] = []


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> None:
    try:
        check(cfg)
        findings = verify(cfg)
    except Exception as error:
        fail(error)
    print(table(findings))
    failed.extend(finding for finding in findings if not finding.passed)


def main() -> None:
    """Entry point of `python -m seqrl.verify`."""
    started(job, leave_nothing=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
