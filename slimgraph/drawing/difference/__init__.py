"""What two problems differ in: their parts as short texts, the changes, and both graphs as one drawing."""

from __future__ import annotations
