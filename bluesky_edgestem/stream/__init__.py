"""Takes the stream of a DECTRIS detector and keeps every frame: two protocols, one receiver, one file."""
