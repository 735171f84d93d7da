import gc
import os
import pickle
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigSource

from seqrl.config.paths import CONF

# Where a composition looks if nobody names other places, and those of them that are folders of files.
SHIPPED = {"pkg://hydra.conf", str(CONF), "structured://"}
FOLDERS = {"hydra.conf", str(CONF)}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _hydra_forgets() -> None:
    GlobalHydra.instance().clear()


@pytest.fixture(autouse=True, scope="session")
def _same_words_compose_once() -> Iterator[None]:
    """A composition takes a tenth of a second, and many tests begin with the same.

    Files of one's own, which a search path names, may change between two compositions.
    """

    def words(loader, **told):
        sources = {path.path for path in loader.config_search_path.get_path()}
        own = sources != SHIPPED or any("searchpath" in override for override in told["overrides"])
        return None if own else (os.getcwd(), repr(told))

    def file(source, config_path):
        return (source.path, config_path) if source.path in FOLDERS else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigLoaderImpl, "load_configuration", once(ConfigLoaderImpl.load_configuration, words))
        for source in Plugins.instance().discover(ConfigSource):
            patch.setattr(source, "load_config", once(source.load_config, file))
        yield


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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the cases of a test that is marked `thin(n)`, all but the first, the n-th after it, and so on are slow."""
    seen: Counter[str] = Counter()
    for item in items:
        if mark := item.get_closest_marker("thin"):
            test = item.nodeid.partition("[")[0]
            if seen[test] % mark.args[0]:
                item.add_marker(pytest.mark.slow)
            seen[test] += 1


def pytest_collection_finish() -> None:
    # What was imported stays: no need to look through it for garbage again and again.
    gc.freeze()
