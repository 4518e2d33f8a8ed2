"""Artifacts: sealed, stored, moved and received."""
