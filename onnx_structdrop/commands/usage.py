"""Wrong use of the command line, as opposed to an error in what it works on."""

from __future__ import annotations

__all__ = ["UsageError"]


class UsageError(Exception):
    """Options that are missing, contradict each other or have values that are not allowed."""
