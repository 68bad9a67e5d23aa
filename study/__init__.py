"""Make runs: train base, SFT and ORPO arms that differ only in their loss."""

__version__ = "0.1.0"
