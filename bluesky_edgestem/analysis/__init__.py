"""The physics and the statistics, without Bluesky, EPICS or servers."""
