"""A DECTRIS detector by its own interface: REST for control, its stream for the frames, no EPICS between."""
