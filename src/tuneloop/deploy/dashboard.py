"""A Grafana dashboard from a short list of panels.

The model of a dashboard: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

from __future__ import annotations

from typing import Any

import yaml

SOURCE = {"type": "prometheus", "uid": "${source}"}
SELECTOR = 'model=~"$model",version=~"$version",arm=~"$arm"'
"""Written ``LABELS`` in the list of panels."""
WIDTH, HEIGHT, COLUMNS = 8, 7, 3


def dashboard(panels_yaml: str) -> dict[str, Any]:
    """The dashboard.

    Args:
        panels_yaml: A list of rows, each ``row: title`` and ``panels: [{title, unit, help, queries: {legend: expr}}]``.
    """
    panels: list[dict[str, Any]] = []
    y = 0
    for row in yaml.safe_load(panels_yaml):
        panels.append(
            {
                "type": "row",
                "title": row["row"],
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": 24, "h": 1},
            }
        )
        y += 1
        for i, panel in enumerate(row["panels"]):
            place = {"x": i % COLUMNS * WIDTH, "y": y + i // COLUMNS * HEIGHT, "w": WIDTH, "h": HEIGHT}
            panels.append(_panel(panel, place))
        y += -(-len(row["panels"]) // COLUMNS) * HEIGHT
    return {
        "uid": "tuneloop",
        "title": "Tuneloop",
        "tags": ["tuneloop"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source(), *map(_variable, ("model", "version", "arm"))]},
        "annotations": {"list": []},
        "panels": [{"id": i, **panel} for i, panel in enumerate(panels, 1)],
    }


def _panel(panel: dict[str, Any], place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + i),
            "datasource": SOURCE,
            "expr": expr.replace("LABELS", SELECTOR),
            "legendFormat": name,
        }
        for i, (name, expr) in enumerate(panel["queries"].items())
    ]
    limits = {"max": panel["max"]} if "max" in panel else {}
    return {
        "type": "timeseries",
        "title": panel["title"],
        "description": panel["help"],
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel["unit"], "min": 0, **limits}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": targets,
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}}


def _variable(label: str) -> dict[str, Any]:
    """A choice of one, several or all values of a label; each narrows the ones after it."""
    before = {"model": "", "version": '{model=~"$model"}', "arm": '{model=~"$model",version=~"$version"}'}[label]
    return {
        "name": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": f"label_values(tuneloop_model_info{before}, {label})", "refId": label},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
