"""GPU use through NVIDIA's management library. Where there is no GPU, or no ``nvidia-ml-py``, there are no series."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from tuneloop.progress import log

LABELS = ("gpu", "uuid")


class GpuCollector(Collector):
    """Utilisation, memory, temperature and power of every GPU that this process may see."""

    def __init__(self) -> None:
        self._nvml: Any = _nvml()

    def collect(self) -> Iterator[Metric]:
        """Called at every scrape. A value that a GPU does not report is left out."""
        if self._nvml is None:
            return
        families = {
            "utilization_ratio": self._family("utilization_ratio", "Share of time in which a kernel ran."),
            "memory_used_bytes": self._family("memory_used_bytes", "Memory in use, by everybody."),
            "memory_total_bytes": self._family("memory_total_bytes", "Memory there is."),
            "temperature_celsius": self._family("temperature_celsius", "Temperature of the chip."),
            "power_watts": self._family("power_watts", "Power drawn."),
        }
        for index in range(self._nvml.nvmlDeviceGetCount()):
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            labels = [str(index), str(self._nvml.nvmlDeviceGetUUID(handle))]
            for name, value in self._read(handle):
                families[name].add_metric(labels, value)
        yield from families.values()

    def _read(self, handle: Any) -> Iterator[tuple[str, float]]:
        nvml = self._nvml
        for read in (
            lambda: [("utilization_ratio", nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)],
            lambda: _memory(nvml.nvmlDeviceGetMemoryInfo(handle)),
            lambda: [("temperature_celsius", nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))],
            lambda: [("power_watts", nvml.nvmlDeviceGetPowerUsage(handle) / 1000)],
        ):
            try:
                yield from read()
            except nvml.NVMLError:  # e.g. utilisation of a MIG slice, power of a laptop's GPU
                continue

    @staticmethod
    def _family(name: str, text: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"tuneloop_gpu_{name}", text, labels=LABELS)


def _memory(info: Any) -> list[tuple[str, float]]:
    return [("memory_used_bytes", info.used), ("memory_total_bytes", info.total)]


def _nvml() -> Any:
    """The library, started; None where it or the driver is missing."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:  # no driver: a machine without a GPU
        return None
    except pynvml.NVMLError as error:
        log(f"metrics: no GPU use, because NVML does not answer: {error}")
        return None
    return pynvml
