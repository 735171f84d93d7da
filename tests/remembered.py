"""What compositions read and parse, kept: one takes a tenth of a second, and many tests begin with the same."""

import os
import pickle
from collections.abc import Callable
from functools import cache
from typing import Any

import omegaconf
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigSource
from omegaconf import grammar_parser

from seqrl.config.paths import CONF
from seqrl.config.validate import faults

# Where a composition looks if nobody names other places, and those of them that are folders of files.
SHIPPED = {"pkg://hydra.conf", str(CONF), "structured://"}
FOLDERS = {"hydra.conf", str(CONF)}


def remember(put: Callable[[Any, str, Any], None]) -> None:
    """Put in place of what reads, parses and composes what does it once.

    Files of one's own, which a search path names, may change between two compositions.
    """

    def words(loader, **told):
        sources = {path.path for path in loader.config_search_path.get_path()}
        own = sources != SHIPPED or any("searchpath" in override for override in told["overrides"])
        return None if own else (os.getcwd(), repr(told))

    def file(source, config_path):
        return (source.path, config_path) if source.path in FOLDERS else None

    put(ConfigLoaderImpl, "load_configuration", once(ConfigLoaderImpl.load_configuration, words))
    for source in Plugins.instance().discover(ConfigSource):
        put(source, "load_config", once(source.load_config, file))
    # What it returns is only looked at.
    parse = cache(grammar_parser.parse)
    for module in (omegaconf.base, omegaconf._utils):
        put(module, "parse", parse)


def once(load, told):
    """Load what it is told once, and hand out copies; None: what may change, and is loaded each time."""
    kept = {}

    def loaded(self, *arguments, **named):
        what = told(self, *arguments, **named)
        if what is None:
            return load(self, *arguments, **named)
        if what not in kept:
            kept[what] = pickle.dumps(load(self, *arguments, **named))
        return pickle.loads(kept[what])

    return loaded


def begin() -> None:
    """Have in mind what every composition needs, for the forks of this process."""
    remember(setattr)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        faults(compose("config"))
