"""Closed-loop 4D-STEM on Bluesky: the microscope decides where to look next.

Nothing is imported here, so that ``import bluesky_edgestem`` costs nothing; import the part you need, for
example ``from bluesky_edgestem.plans.adaptive import adaptive_map``.
"""

__version__ = "0.1.0"
