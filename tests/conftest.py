import gc
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from tests.remembered import remember


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _hydra_forgets() -> None:
    GlobalHydra.instance().clear()


@pytest.fixture(autouse=True, scope="session")
def _same_words_compose_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        remember(patch.setattr)
        yield


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


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    # Thousands of tests are made, and stay.
    gc.disable()


def pytest_collection_finish() -> None:
    # What was imported stays: no need to look through it for garbage again and again.
    gc.freeze()
    gc.enable()
