"""What goes wrong with a catalog; each message says what was wrong, what was given and what to do."""


class CatalogError(RuntimeError):
    """The catalog cannot be served, reached, written or read."""


class JournalError(CatalogError):
    """A document could not be put on disk; the run must stop, for it would not be recorded."""


class SearchError(CatalogError, ValueError):
    """A search term that cannot be understood."""
