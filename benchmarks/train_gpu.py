"""Training speed on one GPU: R1-Distill-Llama-8B's shape with random weights, bfloat16, rows of 4,096 tokens.

    python benchmarks/train_gpu.py [--layers 32] [--steps 8]

Tokens a second count every token once. The fraction is of the matrix-multiplication peak measured in the same process;
a token costs 4 P floating-point operations with adapters (forward, gradient of the input) and 6 P in full fine-tuning,
P being the weights in matrix multiplications, plus attention: 6 (4 + 2 in the backward pass of 2 x) T C per layer, halved
for causality.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness


def peak_flops(torch: Any) -> float:
    """Best of 20 products of 8192 x 8192 bfloat16 matrices, in FLOP/s."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(23):
        torch.cuda.synchronize()
        start = time.perf_counter()
        a @ b
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * 8192**3 / best


def measure(method: str, layers: int, rows: int, length: int, steps: int) -> dict[str, Any]:
    """Seconds of each step, peak memory, and the first and last loss."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tuneloop.train import TrainConfig
    from tuneloop.train.methods import METHODS
    from tuneloop.train.objectives import sft, total_weight
    from tuneloop.types import Example

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=131072, rms_norm_eps=1e-5, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    weights = sum(p.numel() for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n)
    model = METHODS[method](model, TrainConfig(method=method))  # type: ignore[arg-type]
    objective = sft(model, padding_free=True, share_prefixes=False, label_smoothing=0.0)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    generator = torch.Generator().manual_seed(1)
    examples = [
        Example(
            str(i),
            tuple(torch.randint(0, 128000, (length,), generator=generator).tolist()),
            (False, *(True,) * (length - 1)),
        )
        for i in range(rows)
    ]
    seconds, losses = [], []
    for _ in range(steps + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        loss = objective(model, examples) / total_weight(examples)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        losses.append(float(loss.detach()))
    tokens = rows * length
    flops = tokens * ((4 if method == "lora" else 6) * weights + 6 * layers * length * 4096)
    return {
        "tokens_per_s": [tokens / s for s in seconds[2:]],
        "flops_per_s": [flops / s for s in seconds[2:]],
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "losses": losses,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--methods", nargs="*", default=["lora", "full"])
    options = parser.parse_args()
    import torch
    import transformers

    if not torch.cuda.is_available():
        sys.exit("error: no NVIDIA GPU\nhint: benchmarks/train_cpu.py is for the CPU")
    name = torch.cuda.get_device_name(0)
    peak = peak_flops(torch)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    command = f"python benchmarks/train_gpu.py --layers {options.layers} --rows {options.rows} --steps {options.steps}"
    lines = []
    for method in options.methods:
        found = measure(method, options.layers, options.rows, options.length, options.steps)
        case = f"{method}, 8B shape, {options.layers} layers, {options.rows} x {options.length}, bf16"
        share = [f / peak for f in found["flops_per_s"]]
        for metric, unit, values in (
            ("real tokens per second", "tokens/s", found["tokens_per_s"]),
            ("fraction of measured matmul peak", "1", share),
            ("peak memory", "GB", [found["peak_bytes"] / 1e9]),
        ):
            row = harness.line("train_gpu", case, "tuneloop", metric, unit, values, command=command, versions=versions)
            lines.append(row | {"hardware": name, "ok": found["losses"][-1] < found["losses"][0]})
        torch.cuda.empty_cache()
        print(
            json.dumps(
                {
                    "case": case,
                    "tokens_per_s": lines[-3]["median"],
                    "fraction": lines[-2]["median"],
                    "losses": found["losses"],
                }
            )
        )
    path = harness.RESULTS / f"train_gpu_{name.lower().replace(' ', '-')}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    print(f"{path}; measured matmul peak {peak / 1e12:.0f} TFLOP/s")


if __name__ == "__main__":
    main()
