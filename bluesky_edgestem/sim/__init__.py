"""What stands in for hardware: the specimen, the beam and the soft-IOCs. No other part imports it."""
