"""Which device a run uses, and whether it computes what the CPU does."""

from seqrl.devices.device import Device

__all__ = ["Device"]
