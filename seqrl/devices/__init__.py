"""Where tensors live, and whether that place computes what the CPU does."""

from seqrl.devices.device import Device

__all__ = ["Device"]
