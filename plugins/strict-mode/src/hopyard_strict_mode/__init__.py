"""Regions in which a capture refuses what it would otherwise specialise on."""
