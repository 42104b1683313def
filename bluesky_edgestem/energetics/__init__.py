"""Energies of strained phases: density functional theory on workers, its cache, and an emulator."""

from .result import EnergyResult

__all__ = ["EnergyResult"]
