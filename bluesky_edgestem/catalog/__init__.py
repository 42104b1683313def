"""The Tiled catalog: an embedded server, the writer, search and replay."""
