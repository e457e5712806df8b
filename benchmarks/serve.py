"""Serving beside its peers: the gateway's own cost before an instant engine, and engines behind HTTP.

    python benchmarks/serve.py [--cases gateway engines] [--concurrency 1 8 32 64] [--engine-concurrency 1 8 32]
                               [--arms ...] [--rounds 2]

``gateway``: what a gateway adds when the model costs nothing. The same question (about 300 bytes) and the same answer of
seven tokens for every arm, every answer is compared with it, and one error fails the run. The arms:

    direct              the instant server of serve_stand_ins.py without anything before it
    FastAPI + httpx     a plain pass-through, one uvicorn worker, before the same server
    LiteLLM proxy       its proxy in a venv of its own, one worker, as its production page has it (LITELLM_MODE, errors
                        only in the log, no callbacks, no database), a master key, before the same server
    Tuneloop, upstream  ``tuneloop serve`` with engine.name=upstream before the same server; it renders the template,
                        tokenises, and asks for token ids as a stream, which it writes as text again
    Tuneloop, fake      the same with the fake engine, an instant engine in the engine's own process

Keys, limits, metrics and one log line a request are on in Tuneloop, as in production. Two ways of asking: *closed loop*
(each connection asks again at once) for requests a second, and *paced* (random times at ``--rate`` a second, far below
what any arm can do) for latencies. Generator, gateway, engine and stand-in share the machine's cores; on two cores the
closed loop's latency is mostly waiting for one's turn (connections / requests a second), so the latency that a gateway
adds is told from the paced runs, as the difference to ``direct`` in the same round, and from the closed loop of one
connection: there a request follows at once upon the other, so that the caches are warm, which they are not after the
25 ms between two paced ones.

``engines``: SmolLM2-135M at 8 bit (Q8_0 GGUF), greedy, 64 new tokens, streamed over /v1/completions, all requests of a
level at once, each followed by three others; the arms take turns, and all but one are stopped. Ours hands on what lies
between the first token and the end every 50 ms (``engine.stream_interval_s``), so that its "inter-token" is the time
between pieces of several tokens. ``openvino float32`` is the exact one: ``openvino``, like llama.cpp, rounds activations
to 8 bits. The raw arms call the packages in a process of their own, without anything of ours. ``transformers serve``
reads the safetensors in bfloat16 (it computes no 8 bit on a CPU) with continuous batching. llama-cpp-python's server
answers one request at a time. vLLM in bfloat16, alone and behind Tuneloop, where the environment's TUNELOOP_VLLM names
its command (tests/vllm_server.py says how to have one). Memory is what a server and its children hold (PSS) after each
level. A peer that cannot be had here, or does not answer, is a line ``skipped`` with the reason.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import serve_load as load
from benchmarks.harness import line, read, signal_tree, tree_bytes, write
from benchmarks.serve_arms import (
    ENGINES,
    GATEWAYS,
    NEW_TOKENS,
    PROMPTS,
    Place,
    RawEngine,
    Server,
    Skipped,
    make_gguf,
    versions,
)
from benchmarks.serve_load import Reply, share, summary

ANSWER = "The capital of France is Paris."
ASK = {
    "model": "instant",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant of a bank. Answer in one sentence."},
        {"role": "user", "content": "What is the capital of France? Please answer in a whole sentence, not in a word."},
    ],
    "max_tokens": 64,
    "temperature": 0,
}
FEWEST, TIMES = 16, 4
"""Of each level so many times its number of requests are asked in a round, and at least the fewest."""
BASE = "LiteLLM proxy"
BESIDE = {
    "Tuneloop, llamacpp": "xllamacpp, raw",
    "Tuneloop, openvino": "OpenVINO GenAI, raw",
    "Tuneloop, openvino float32": "Tuneloop, openvino",
    "Tuneloop, upstream vLLM": "vLLM",
}
"""What an engine's arm is compared with."""


def measure_gateway(port: int, key: str, at_once: int, options: argparse.Namespace) -> dict[str, float]:
    """One arm at one number of connections: closed loop, paced, streamed."""
    whole = [load.request(port, "/v1/chat/completions", ASK, key)]
    stream = [load.request(port, "/v1/chat/completions", ASK | {"stream": True}, key)]
    load.closed(port, whole, at_once, seconds=options.seconds / 4)  # warm
    closed = load.closed(port, whole, at_once, seconds=options.seconds)
    paced = load.paced(port, whole, at_once, rate=options.rate, seconds=options.seconds)
    streamed = load.paced(port, stream, at_once, rate=options.rate / 2, seconds=options.seconds)
    # A closed run ends with the answer to the last request: its wall time is from the first send to the last answer.
    wall = max(s.ended for s in closed) - min(s.began for s in closed)
    found = {"requests/s": len(closed) / wall}
    for kind, shots in (("closed loop", closed), ("paced", paced)):
        seconds = [r.latency_s for r in checked(shots)]
        found |= {f"{kind} p{p}": share(seconds, p / 100) * 1000 for p in (50, 95, 99)}
    firsts = [r.first_s or 0.0 for r in checked(streamed)]
    return found | {f"first token p{p}": share(firsts, p / 100) * 1000 for p in (50, 99)}


def checked(shots: Sequence[load.Shot]) -> list[Reply]:
    """The replies; every one must be the right one."""
    replies = [load.understand(shot) for shot in shots]
    wrong = [r for r in replies if r.error or r.text != ANSWER]
    if wrong:
        sys.exit(
            f"error: {len(wrong)} of {len(replies)} answers are wrong, such as {wrong[0].error or wrong[0].text!r}"
        )
    return replies


def gateway(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every arm is up all the time; the rounds go through them in turn, at every number of connections."""
    found: dict[tuple[int, str], list[dict[str, float]]] = {}
    with TemporaryDirectory() as folder, Place(Path(folder)) as place:
        place.instant(ANSWER)
        arms = {}
        for name, start in chosen(GATEWAYS, options).items():
            say(f"starting {name}")
            arms[name] = start(place)
        for turn in range(options.rounds):
            for at_once in options.concurrency:
                for name, server in arms.items():
                    one = measure_gateway(server.port, place.key, at_once, options)
                    one["memory"] = tree_bytes(server.pid) / 1e6
                    found.setdefault((at_once, name), []).append(one)
                    say(f"round {turn + 1}/{options.rounds}, {at_once} connections, {name}: "
                        f"{one['requests/s']:.0f} requests/s, paced p50 {one['paced p50']:.2f} p99 {one['paced p99']:.2f} ms")  # fmt: skip
    return [row for (n, name), runs in found.items() for row in gateway_lines(n, name, runs, found)]


def gateway_lines(
    at_once: int, name: str, runs: list[dict[str, float]], found: dict[tuple[int, str], list[dict[str, float]]]
) -> list[dict[str, Any]]:
    """One arm's results, beside LiteLLM's (throughput) and the direct ones (latency) of the same rounds."""
    base, direct = found.get((at_once, BASE)), found.get((at_once, "direct"))
    values = {metric: [run[metric] for run in runs] for metric in runs[0]}
    out = []
    for metric, measured in values.items():
        unit = {"requests/s": "requests/s", "memory": "MB"}.get(metric, "ms")
        ratios = []
        if metric == "requests/s" and base and name != BASE:
            ratios = [a / b["requests/s"] for a, b in zip(measured, base, strict=True)]
        known = "memory" if metric == "memory" else "throughput" if metric == "requests/s" else metric
        out.append(("gateway", known, unit, measured, ratios))
        waits = metric.startswith("closed") and at_once > 1  # for its turn, mostly
        if unit == "ms" and not waits and direct and name != "direct":
            added = [a - b[metric] for a, b in zip(measured, direct, strict=True)]
            out.append(("gateway", f"added {metric}", unit, added, []))
    return [
        line("serve", f"{case}, {at_once} connections", name, metric, unit, numbers, against=BASE if ratios else "",
             ratios=ratios, command=COMMAND, versions=versions())
        for case, metric, unit, numbers, ratios in out
    ]  # fmt: skip


class Failed(Exception):
    """A request was not answered as it should have been."""


def ask_engine(port: int, key: str, model: str, at_once: int, count: int, *, stream: bool) -> list[load.Shot]:
    """``count`` completions, the prompts in turn; none may fail."""
    more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    bodies = [{"model": model, "prompt": p, "max_tokens": NEW_TOKENS, "temperature": 0} | more for p in PROMPTS]
    requests = [load.request(port, "/v1/completions", body, key) for body in bodies]
    shots = load.closed(port, requests, at_once, count=count)
    if wrong := [r for r in map(load.understand, shots) if r.error]:
        raise Failed(f"{len(wrong)} of {len(shots)} requests failed, such as {wrong[0].error}")
    return shots


def measure_engine(shots: Sequence[load.Shot], known: Sequence[int]) -> dict[str, float]:
    """One level over HTTP. Tokens are counted by the server; ``known`` is its count of each prompt's answer where its
    stream says nothing (pieces of text are not tokens: a token may end inside a character)."""
    replies = [load.understand(shot) for shot in shots]
    wall = max(s.ended for s in shots) - min(s.began for s in shots)
    said = [r.tokens for r in replies if r.tokens is not None]
    tokens = sum(said) if len(said) == len(replies) else sum(known[i % len(known)] for i in range(len(shots)))
    firsts, gaps = [r.first_s or 0.0 for r in replies], [g for r in replies for g in r.gaps_s]
    found = summary(tokens / wall, [r.latency_s for r in replies], firsts, gaps)
    return found | {"tokens": tokens, "expected": len(shots) * NEW_TOKENS}


def engines(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every arm is up all the time, and stopped (SIGSTOP) while another is measured: idle engines must not take its cores.
    A round goes through the levels, and at each through the arms, every other round in the opposite order."""
    found: dict[str, list[dict[str, Any]]] = {}
    skipped: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder, Place(Path(folder)) as place:
        make_gguf(place.gguf)
        arms: dict[str, RawEngine | HttpEngine] = {}
        for name, start in chosen(ENGINES, options).items():
            say(f"starting {name}")
            try:
                started = start(place, max(options.engine_concurrency))
                arms[name] = HttpEngine(started, place.key) if isinstance(started, Server) else started
            except (Skipped, Failed) as reason:
                if isinstance(reason, Failed) and name.startswith("Tuneloop"):
                    raise
                say(f"{name}: skipped: {reason}")
                skipped.append(line("serve", "engines", name, f"skipped: {reason}", "", [0.0], ok=False,
                                    command=COMMAND, versions=versions()))  # fmt: skip
                continue
            signal_tree(arms[name].pids, signal.SIGSTOP)
        for turn in range(options.rounds):
            for runs in (found.setdefault(name, []) for name in arms):
                runs.append({})
            for n in options.engine_concurrency:
                for name, arm in list(arms.items())[:: -1 if turn % 2 else 1]:
                    signal_tree(arm.pids, signal.SIGCONT)
                    one = arm.measure(n, asked(n))
                    found[name][turn] |= {str(n): one, "memory": sum(map(tree_bytes, arm.pids)) / 1e6}
                    signal_tree(arm.pids, signal.SIGSTOP)
                    say(f"round {turn + 1}/{options.rounds}, {n} at once, {name}: {one['speed']:.0f} tokens/s")
    return [row for name, runs in found.items() for row in engine_lines(name, runs, found, options)] + skipped


class HttpEngine:
    """An engine behind a server, warm."""

    def __init__(self, server: Server, key: str) -> None:
        self._at = (server.port, key, server.model)
        self.pids = [each.pid for each in (server, server.behind) if each is not None]
        warm = load.understand(ask_engine(*self._at, 1, 1, stream=True)[0])
        counted = ask_engine(*self._at, 1, len(PROMPTS), stream=False) if warm.tokens is None else []
        self._known = [load.understand(shot).tokens or 0 for shot in counted]  # one connection: in the prompts' order

    def measure(self, at_once: int, count: int) -> dict[str, float]:
        """Ask for a level."""
        return measure_engine(ask_engine(*self._at, at_once, count, stream=True), self._known)


def asked(level: int) -> int:
    return max(TIMES * level, FEWEST)


def engine_lines(
    name: str, runs: list[dict[str, Any]], found: dict[str, list[dict[str, Any]]], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """One arm's results, beside those of the same round that it is compared with."""
    against = BESIDE.get(name, "")
    beside = found.get(against)
    out = []
    for n in map(str, options.engine_concurrency):
        complete = all(run[n]["tokens"] == run[n]["expected"] for run in runs)
        for metric in ("speed", "first token p50", "inter-token p50", "p50", "p95", "p99"):
            values = [run[n][metric] for run in runs]
            ratios = [a / b[n][metric] for a, b in zip(values, beside or [], strict=False)]
            unit = "tokens/s" if metric == "speed" else "ms"
            out.append(line("serve", f"engines, {n} at once", name, metric, unit, values, against=against if ratios else "",
                            ratios=ratios, ok=complete, command=COMMAND, versions=versions()))  # fmt: skip
    memory = [run["memory"] for run in runs]
    return [*out, line("serve", "engines", name, "memory", "MB", memory, command=COMMAND, versions=versions())]


def chosen(arms: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    return {name: start for name, start in arms.items() if not options.arms or name in options.arms}


def say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def unmeasured(row: dict[str, Any], options: argparse.Namespace) -> bool:
    """Another arm's result: it stays, with the commit and the command that it is from."""
    return bool(options.arms) and row["arm"] not in options.arms


CASES = {"gateway": gateway, "engines": engines}
COMMAND = " ".join(["python benchmarks/serve.py", *sys.argv[1:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--arms", nargs="+", choices=[*GATEWAYS, *ENGINES], help="default: all of the cases")
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 8, 32, 64])
    parser.add_argument("--engine-concurrency", nargs="+", type=int, default=[1, 8, 32], help="of the engines")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement of a gateway")
    parser.add_argument("--rate", type=float, default=40.0, help="requests a second of the paced runs")
    options = parser.parse_args()
    rows = [row for row in read("serve") if row["case"].split(",")[0] not in options.cases or unmeasured(row, options)]
    for case in options.cases:
        rows += CASES[case](options)
    for row in rows:
        ratio = f"  {row['ratio']:.2f} x {row['ratio_to']}" if row["ratio"] else ""
        print(f"{row['case']:27} {row['arm']:20} {row['metric']:18} {row['median']:9.2f} {row['unit']}{ratio}"
              + ("" if row["ok"] else "  fewer tokens than asked for"))  # fmt: skip
    print(write("serve", rows))


if __name__ == "__main__":
    main()
