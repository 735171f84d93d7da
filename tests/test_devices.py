import pytest
import torch

from seqrl.devices import Device
from seqrl.errors import ConfigError


def test_auto_takes_a_device_that_is_there():
    device = Device("auto", threads=1, precision="float32").torch_device
    assert torch.zeros(2, device=device).sum() == 0


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "cpu:1", "cuda:x", ""])
def test_a_device_that_is_not_there_is_refused_with_a_remedy(name):
    with pytest.raises(ConfigError, match=r"device\.name: .*device=cpu"):
        Device(name, threads=1, precision="float32")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_names_the_remedy():
    with pytest.raises(ConfigError, match=r"device\.name: .*\(got 'cuda'\)\. Use device=cpu\."):
        Device("cuda", threads=1, precision="float32")
