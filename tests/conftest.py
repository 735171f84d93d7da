import pytest
import torch
from hydra.core.global_hydra import GlobalHydra


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _hydra_forgets() -> None:
    GlobalHydra.instance().clear()
