"""Live consumers of a run's documents: patterns to descriptors, to energies, to the next positions."""
