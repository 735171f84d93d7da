import os
import subprocess
import sys

import pytest
import torch

from seqrl.devices.device import HINTS, Device, choose
from seqrl.errors import ConfigError


def test_auto_takes_an_available_device():
    device = Device("auto", threads=1, precision="float32").torch_device
    assert torch.zeros(2, device=device).sum() == 0


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "cpu:1", "cuda:x", "cuda:²", "cuda:" + "1" * 5000, ""])
def test_an_unavailable_device_is_refused_with_a_remedy(name):
    with pytest.raises(ConfigError, match=r"device\.name: .*device=cpu"):
        Device(name, threads=1, precision="float32")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_names_the_remedy():
    with pytest.raises(ConfigError, match=r"device\.name: .*\(got 'cuda'\)\. Use device=cpu\."):
        Device("cuda", threads=1, precision="float32")


def auto(monkeypatch, *available) -> Device:
    """Device auto on a machine with these accelerators."""
    for name in ("cuda", "mps"):
        monkeypatch.setattr(getattr(torch, name), "is_available", lambda name=name: name in available)
        monkeypatch.setattr(getattr(torch, name), "device_count", lambda: 1)
    return Device("auto", threads=2, precision="float64")


@pytest.mark.parametrize(
    ("available", "faulty", "name", "messages"),
    [
        ([], [], "cpu", []),
        (["cuda"], [], "cuda", [HINTS["cuda"]]),
        (["cuda"], ["cuda"], "cpu", ["device=auto skips cuda: it hangs."]),
        (["mps"], [], "mps", [HINTS["mps"]]),
        (["cuda", "mps"], ["cuda"], "mps", ["device=auto skips cuda: it hangs.", HINTS["mps"]]),
        (["cuda", "mps"], ["cuda", "mps"], "cpu", [f"device=auto skips {d}: it hangs." for d in ("cuda", "mps")]),
    ],
)
def test_auto_takes_the_first_that_passes(monkeypatch, available, faulty, name, messages):
    printed = []
    device = choose(auto(monkeypatch, *available), lambda d: "it hangs" if d.type in faulty else None, printed.append)
    assert (device.name, device.threads, device.dtype, printed) == (name, 2, torch.float64, messages)


def test_the_cpu_is_never_probed():
    device = Device("cpu", threads=1, precision="float32")
    assert choose(device, pytest.fail, pytest.fail) == device


def test_a_device_that_fails_the_probe_is_refused_with_a_remedy(monkeypatch):
    monkeypatch.setattr(torch.mps, "is_available", lambda: True)
    device = Device("mps", threads=1, precision="float32")
    with pytest.raises(ConfigError, match=r"^device\.name: it hangs \(got 'mps'\)\. Use device=cpu\.$"):
        choose(device, lambda _: "it hangs", pytest.fail)


@pytest.mark.parametrize(("precision", "products"), [("float32", "ieee"), ("bf16", "ieee"), ("tf32", "tf32")])
def test_cudnn_rounds_factors_only_when_asked_to(precision, products):
    Device("cpu", threads=1, precision=precision).prepare()
    assert torch.backends.cudnn.rnn.fp32_precision == products
    assert torch.backends.cuda.matmul.fp32_precision == products


@pytest.mark.slow
def test_a_device_knows_which_instructions_torch_uses(tmp_path):
    ask = "from seqrl.devices.device import Device; print(Device('cpu', 1, 'float32').processor)"
    said = {}
    for level in ("default", "avx2"):
        env = os.environ | {"ATEN_CPU_CAPABILITY": level}
        said[level] = subprocess.run([sys.executable, "-c", ask], env=env, capture_output=True, text=True).stdout
    assert [it.rpartition(", ")[2] for it in said.values()] == ["DEFAULT\n", "AVX2\n"]
