"""Charts of numbers, drawn by matplotlib: the spectrum of maps, the history of a fit."""

from __future__ import annotations
