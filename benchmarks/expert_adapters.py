"""Adapters on routed experts on a CPU: thin matrices beside the experts against PEFT's sums of weights.

    python benchmarks/expert_adapters.py [--rounds 3] [--steps 5]

A DeepSeek-V2 shape in small (105 million weights: 64 experts of 512 x 512, 6 a token, 2 such layers; random, float32)
takes optimizer steps on 8 rows of 64 tokens. Every arm has the same weights, adapters and rows; a speed counts only
where the losses of all steps agree within 1e-5. The last arm adapts no experts: what the rest of the step costs.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

OURS, PEFT, WITHOUT = "thin matrices", "PEFT 0.21 ParamWrapper", "experts not adapted"
ROWS, TOKENS, VOCABULARY, TOLERANCE = 8, 64, 300, 1e-5


def measure(arm: str, steps: int) -> dict[str, Any]:
    """One run: losses of all steps, tokens a second without the first, peak memory."""
    import torch
    import transformers as hf

    from tuneloop.train import LoraConfig, TrainConfig
    from tuneloop.train.loop import optimizer_step
    from tuneloop.train.methods import METHODS
    from tuneloop.train.objectives import sft
    from tuneloop.train.optimise import build_optimizer, trained_parameters
    from tuneloop.types import Example

    shape = hf.DeepseekV2Config(
        vocab_size=VOCABULARY, hidden_size=512, intermediate_size=1024, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, q_lora_rank=None, kv_lora_rank=64, qk_rope_head_dim=16, qk_nope_head_dim=32, v_head_dim=32,
        n_routed_experts=64, num_experts_per_tok=6, n_shared_experts=1, moe_intermediate_size=512,
        first_k_dense_replace=1, n_group=1, topk_group=1, dtype="float32",
    )  # fmt: skip
    torch.manual_seed(0)
    config = TrainConfig(lora=LoraConfig(experts=arm != WITHOUT))
    model = METHODS["lora"](hf.AutoModelForCausalLM.from_config(shape).float(), config)
    if arm == PEFT:
        for module in model.modules():
            vars(module).pop("forward", None)
    rng = random.Random(0)
    mask = tuple(i >= TOKENS // 2 for i in range(TOKENS))
    rows = [Example(str(i), tuple(rng.randrange(5, VOCABULARY) for _ in range(TOKENS)), mask) for i in range(ROWS)]
    objective = sft(model, padding_free=True, share_prefixes=True, label_smoothing=0.0)
    optimizer = build_optimizer(trained_parameters(model), config)
    losses, spent = [], 0.0
    for step in range(steps + 1):
        begun = time.perf_counter()
        losses.append(optimizer_step(model, objective, optimizer, [rows], 1e-4, 1.0)[0])
        spent += time.perf_counter() - begun if step else 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"losses": losses, "tokens_per_s": steps * ROWS * TOKENS / spent, "peak_bytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(measure(options.arm, options.steps)))
        return
    import peft
    import torch
    import transformers

    command = [sys.executable, str(Path(__file__).resolve()), "--steps", str(options.steps), "--arm"]
    results = harness.interleave([harness.Arm(a, [*command, a], {}) for a in (OURS, PEFT, WITHOUT)], options.rounds)
    apart = max(
        abs(x - y)
        for a, b in zip(results[OURS], results[PEFT], strict=True)
        for x, y in zip(a["losses"], b["losses"], strict=True)
    )
    if apart > TOLERANCE:
        sys.exit(f"error: the losses differ by {apart:.2g}: there is nothing to compare")
    facts = {
        "command": f"python benchmarks/expert_adapters.py --rounds {options.rounds} --steps {options.steps}",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
    }
    lines = []
    for name, runs in results.items():
        speeds, peaks = [r["tokens_per_s"] for r in runs], [r["peak_bytes"] / 1e9 for r in runs]
        ratios = [a / b["tokens_per_s"] for a, b in zip(speeds, results[PEFT], strict=True)]
        lines.append(harness.line("expert_adapters", "train step", name, "tokens per second", "tokens/s", speeds,
                                  against=PEFT, ratios=ratios, **facts))  # fmt: skip
        lines.append(harness.line("expert_adapters", "train step", name, "peak memory", "GB", peaks, **facts))
    print(f"largest difference of a loss: {apart:.2g}", file=sys.stderr)
    print(harness.write("expert_adapters", lines))


if __name__ == "__main__":
    main()
