"""The doors of the gateway, one module a route: a body is read, made into ``Asked``, and answered in the door's words."""

from __future__ import annotations

from tuneloop.serve.routes import batches, doors, files, health, models

ROUTES = (doors, models, files, batches, health)
"""Each has ``add(app, gateway)``."""

__all__ = ["ROUTES"]
