"""What a diagram is written and rendered in: DOT and Mermaid text, pictures by Graphviz, a web page, and the file."""

from __future__ import annotations
