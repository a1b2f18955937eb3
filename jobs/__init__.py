"""Sweeps: one sweep file is one Ray job that finds out which scores to combine, and how."""
