"""A bundle -> an Engine; a Request -> a Response. Used by evaluate, serve and whoever needs tokens.

    engine = create(EngineConfig(), open_bundle(path))
    responses = generate(engine, requests)
    engine.close()

Engines take token ids and know no text. ``EngineProcess`` keeps one in a supervised child process.
"""

from __future__ import annotations

from tuneloop.engines.base import DENIED, Capabilities, Engine, EngineStats, ReportsStats
from tuneloop.engines.config import EngineConfig, FakeConfig, UpstreamConfig
from tuneloop.engines.generate import generate
from tuneloop.engines.grammar import REFUSED
from tuneloop.engines.grammar import check as check_grammar
from tuneloop.engines.process import EngineProcess, State
from tuneloop.engines.process_engine import ProcessEngine
from tuneloop.engines.registry import choose, create, names

__all__ = [
    "DENIED",
    "REFUSED",
    "Capabilities",
    "Engine",
    "EngineConfig",
    "EngineProcess",
    "EngineStats",
    "FakeConfig",
    "ProcessEngine",
    "ReportsStats",
    "State",
    "UpstreamConfig",
    "check_grammar",
    "choose",
    "create",
    "generate",
    "names",
]
