"""Run in .venv-pyxem by benchmarks/strain_pyxem.py: pyxem simulates a strained precipitate.

Takes the side of the scan and of the frames, the disks' radius [pixels], how much farther the spots are from the beam
in the middle of the precipitate, along rows, along columns and across, and a file to write: `patterns` (n, ny, nx)
without noise, and `share` (n,) of that at each position.

pyxem rounds the unstrained spots to whole pixels, and moves them then; it divides by the brightest pixel.
"""

import sys

import numpy as np
from pyxem.data.simulated_strain import simulated_strain
from scipy.ndimage import gaussian_filter
from skimage.draw import ellipse

if __name__ == "__main__":
    side, pixels, radius = (int(word) for word in sys.argv[1:4])
    exx, eyy, exy = (float(word) for word in sys.argv[4:7])
    strain = np.array([[exx, exy, 0], [exy, eyy, 0], [0, 0, 0]])
    signal = simulated_strain((side, side), (pixels, pixels), radius, None, strain)
    # As it draws the precipitate, which it does not give back.
    share = np.zeros((side, side))
    share[ellipse(side // 2, side // 2, r_radius=round(side // 2 * 0.5), c_radius=round(side // 2 * 0.7))] = 1
    share = gaussian_filter(share, sigma=3)
    np.savez(sys.argv[7], patterns=signal.data.reshape(-1, pixels, pixels).astype(np.float32), share=share.ravel())
