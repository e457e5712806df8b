"""How the answers to a body are told, one module a door, over whatever connection they go."""

from __future__ import annotations

from tuneloop.serve.shapes.shape import Chunks, Shape, head

__all__ = ["Chunks", "Shape", "head"]
