"""Bluesky plans: the adaptive map, and the surveys it is compared with."""
