"""Bluesky plans: the adaptive map, the surveys it is compared with, and a calibration.

Their modules do not postpone annotations (``from __future__``): a queue server reads the annotations of a plan, and
refuses those that it finds as text.
"""
