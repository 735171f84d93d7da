"""Makes the film of a policy from a configuration."""

import copy
import os
from collections.abc import Callable
from contextlib import closing

from omegaconf import DictConfig, OmegaConf

from seqrl import seeds
from seqrl.config.settle import with_values
from seqrl.devices.device import Device
from seqrl.envs.gym.registry import draws_itself
from seqrl.errors import SeqrlError
from seqrl.film.film import Film, Limits, film
from seqrl.networks import Network
from seqrl.run.build import make_env
from seqrl.run.evaluator import frozen


def filmed(
    cfg: DictConfig, device: Device, network: Network, limits: Limits, undrawn: Callable[[str], None]
) -> list[Film]:
    """A film of some of the episodes that an evaluation plays, with pictures of the environment if it can be drawn.

    undrawn   is told why, if there are none

    Raises whatever the environment, or the network, raises without being drawn.
    """
    drawn = rendered(cfg)
    try:
        return _played(drawn, device, network, limits, undrawn)
    except SeqrlError as error:
        if drawn is cfg:
            raise
        undrawn(str(error))
        return _played(cfg, device, network, limits, undrawn)


def _played(
    cfg: DictConfig, device: Device, network: Network, limits: Limits, undrawn: Callable[[str], None]
) -> list[Film]:
    generator = None if cfg.evaluation.greedy else seeds.generator(cfg.seed, "evaluation policy", device.torch_device)
    with closing(make_env(cfg, device, 1, "evaluation")) as env, frozen(network):
        return film(env, network, generator, limits, undrawn)


def rendered(cfg: DictConfig) -> DictConfig:
    """The same configuration, with an environment that renders itself if it can."""
    is_gymnasium = cfg.env._target_ == "seqrl.envs.GymnasiumEnv" and cfg.env.backend != "envpool"
    if is_gymnasium and draws_itself(cfg.env.id):
        if not {"DISPLAY", "WAYLAND_DISPLAY"} & {*os.environ}:
            # SDL, with which Gymnasium draws, would look for a display, and say that there is none.
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        cfg = copy.deepcopy(cfg)
        # Arguments of an environment are anybody's.
        OmegaConf.set_struct(cfg, False)
        return with_values(cfg, {"env": {"backend": "sync", "kwargs": {"render_mode": "rgb_array"}}})
    return cfg
