import gc
import os
import pickle
from collections.abc import Iterator

import pytest
import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra

from seqrl.config.paths import CONF

# Where a composition looks for files if nobody names others.
SHIPPED = {"pkg://hydra.conf", str(CONF), "structured://"}


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
    kept: dict[tuple[object, ...], bytes] = {}
    load = ConfigLoaderImpl.load_configuration

    def loaded(self, **told):
        sources = {path.path for path in self.config_search_path.get_path()}
        if sources != SHIPPED or any("searchpath" in override for override in told["overrides"]):
            return load(self, **told)
        words = (os.getcwd(), repr(told))
        if words not in kept:
            kept[words] = pickle.dumps(load(self, **told))
        return pickle.loads(kept[words])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigLoaderImpl, "load_configuration", loaded)
        yield


def pytest_collection_finish() -> None:
    # What was imported stays: no need to look through it for garbage again and again.
    gc.freeze()
