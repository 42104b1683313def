"""Ophyd devices of the microscope: scan coils, beam blanker, pixelated detector, and what composes them."""
