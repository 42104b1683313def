"""Scans that were recorded, in a catalog or in a file: networks trained on them, and maps made of them."""
