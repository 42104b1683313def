"""The microscope's devices, in ophyd."""
