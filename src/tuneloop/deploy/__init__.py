"""Files for those who run the service: written once, then theirs to change.

monitoring(MonitoringConfig(targets=("10.0.0.5:8000",)), Path("monitoring"))   Prometheus and Grafana
"""

from __future__ import annotations

from tuneloop.deploy.monitoring import MonitoringConfig, monitoring

__all__ = ["MonitoringConfig", "monitoring"]
