"""Checks what a configuration names."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial

import numpy as np
from omegaconf import DictConfig, OmegaConf

from seqrl.devices.device import Device
from seqrl.envs import BatchedEnv
from seqrl.envs.gym.resets import AutoresetError
from seqrl.film.making import rendered
from seqrl.run.build import constructor, make_device, make_env, make_network
from seqrl.verify.environment import env_checks, is_playable
from seqrl.verify.findings import Begin, Finding, Status, found
from seqrl.verify.network import network_checks
from seqrl.verify.ranks import processes_check
from seqrl.verify.subject import Subject


def verify(cfg: DictConfig, begin: Begin) -> Iterator[Finding]:
    """Check the environment and the network of a configuration, on the CPU; what is found, as it is found."""
    device = replace(make_device(cfg), name="cpu")
    device.prepare()
    if cfg.env.get("backend") == "async":
        # It plays the same episodes as sync.
        merged = OmegaConf.merge(cfg, {"env": {"backend": "sync"}})
        assert isinstance(merged, DictConfig)
        cfg = merged

    backend = _backend(cfg, device)
    make, drawn = (partial(_make, it, device, backend) for it in (cfg, rendered(cfg)))
    findings = []
    for finding in env_checks(make, None, not cfg.runner.rollout_length, begin, drawn):
        findings.append(finding)
        yield finding
    if not is_playable(findings):
        yield Finding("the network", Status.UNCHECKED, "the environment must be fixed first", "Then run this again.")
        return
    with closing(make(1, "verify")) as env:
        checked = make_network(cfg, env, device)
    bptt_length = constructor(cfg.algorithm)(checked, np.random.default_rng(0)).settings.bptt_length
    subject = Subject(make, checked, bptt_length, cfg.parallel, cfg.runner.rollout_length)
    yield from network_checks(subject, begin)
    if cfg.processes > 1:
        yield from found([processes_check(cfg)], None, begin)


def _backend(cfg: DictConfig, device: Device) -> str:
    """The backend that is asked for, or that auto picks."""
    try:
        with closing(make_env(cfg, device, 1, "verify")) as env:
            return env.backend
    except AutoresetError:
        # The checks say so.
        return "vector"


def _make(cfg: DictConfig, device: Device, backend: str, batch_size: int, stream: str) -> BatchedEnv:
    return make_env(cfg, device, batch_size, stream, backend=backend)
