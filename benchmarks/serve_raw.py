"""The raw engines of benchmarks/serve.py: the packages as they are, with nothing of ours around them.

    python benchmarks/serve_raw.py xllamacpp|openvino SETTINGS

``xllamacpp`` is llama.cpp's server as a library, asked from as many threads as there are requests at once; ``openvino`` is
OpenVINO GenAI's continuous batching, stepped on one thread. Both get the text of the prompts, 64 new tokens, greedy, and
report when each piece of text came. Each line of standard input asks for one level, ``[at once, requests]``; each line of
standard output is JSON: ``{}`` when the engine is ready, then what a level gave.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.serve_load import summary

Times = list[float]
"""When each token of an answer came; the first entry is when it was asked for."""
Ask = Callable[[list[str], int], list[Times]]


def xllamacpp(settings: dict[str, Any]) -> Ask:
    """llama.cpp's own server, without HTTP."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings["file"]
    params.n_parallel, params.n_ctx, params.kv_unified = settings["most"], settings["context"] * settings["most"], False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
    params.warmup, params.verbosity, params.cache_ram_mib = False, -1, 0
    params.ui, params.endpoint_slots, params.n_threads_http = False, False, 1
    params.hostnames = [str(Path(tempfile.mkdtemp(), "llama.sock"))]  # it insists on an address; nobody connects
    server = xllamacpp.Server(params)

    def one(prompt: str) -> Times:
        times = [time.perf_counter()]

        def take(chunk: Any) -> bool:
            choices = chunk.get("choices") or [{}]
            if choices[0].get("text"):
                times.append(time.perf_counter())
            return False

        body = {
            "prompt": prompt,
            "n_predict": settings["new_tokens"],
            "temperature": 0.0,
            "top_k": 1,
            "samplers": ["top_k"],
        }
        server.handle_completions(body | {"stream": True, "cache_prompt": False}, take)
        return times

    def ask(prompts: list[str], at_once: int) -> list[Times]:
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(one, prompts))

    return ask


def openvino(settings: dict[str, Any]) -> Ask:
    """OpenVINO GenAI's pipeline with its own tokenizer out of the GGUF."""
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.max_num_seqs = settings["most"]
    scheduler.enable_prefix_caching = False
    scheduler.num_kv_blocks = settings["most"] * (settings["context"] // 32 + 1)
    threads = len(os.sched_getaffinity(0))
    properties = {"INFERENCE_NUM_THREADS": threads, "sampler_num_threads": threads, "INFERENCE_PRECISION_HINT": "f32",
                  "KV_CACHE_PRECISION": "u8"}  # fmt: skip
    pipeline = openvino_genai.ContinuousBatchingPipeline(settings["file"], scheduler, "CPU", properties, {})
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos = settings["new_tokens"], True
    number = 0

    def ask(prompts: list[str], at_once: int) -> list[Times]:
        nonlocal number
        waiting, running, done = list(prompts), {}, []
        while waiting or running:
            while waiting and len(running) < at_once:
                times = [time.perf_counter()]
                number += 1
                running[number] = (pipeline.add_request(number, waiting.pop(0), config), times)
            pipeline.step()
            for name, (handle, times) in list(running.items()):
                finished = handle.get_status() == openvino_genai.GenerationStatus.FINISHED
                while handle.can_read():
                    tokens = sum(len(output.generated_ids) for output in handle.read().values())
                    times += [time.perf_counter()] * tokens
                if finished:
                    done.append(running.pop(name)[1])
        return done

    return ask


def main() -> None:
    answers_to = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="ascii")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries print
    ask = {"xllamacpp": xllamacpp, "openvino": openvino}[sys.argv[1]](settings := json.loads(sys.argv[2]))
    ask(settings["prompts"][:1], 1)  # warm
    print("{}", file=answers_to, flush=True)
    for said in sys.stdin:
        print(json.dumps(level(ask, settings, *json.loads(said))), file=answers_to, flush=True)
    os._exit(0)  # the servers' destructors wait for nobody knows what


def level(ask: Ask, settings: dict[str, Any], at_once: int, count: int) -> dict[str, float]:
    """``count`` prompts in turn, so many at once."""
    prompts = settings["prompts"]
    began = time.perf_counter()
    answers = ask([prompts[i % len(prompts)] for i in range(count)], at_once)
    wall = time.perf_counter() - began
    made = sum(len(times) - 1 for times in answers)
    gaps = [b - a for times in answers for a, b in itertools.pairwise(times[1:])]
    firsts, totals = [t[1] - t[0] for t in answers], [t[-1] - t[0] for t in answers]
    return summary(made / wall, totals, firsts, gaps) | {"tokens": made, "expected": count * settings["new_tokens"]}


if __name__ == "__main__":
    main()
