"""The examples' own files run: the Chinese one through data, training and evaluation on a tiny random model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tuneloop

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def test_the_chinese_example_runs_through_data_and_evaluation(tiny: Callable[..., Path], tmp_path: Path) -> None:
    result = tuneloop.run(
        EXAMPLES / "medical-zh" / "tuneloop.yaml",
        f"model.name={tiny('qwen2', 'r1-distill')}",
        f"runs_folder={tmp_path}",
        "train.max_steps=2",
        "train.trackers=[]",
        "evaluate.limit=6",
        "evaluate.max_new_tokens=8",
        "evaluate.latency_requests=2",
        until="evaluate-tuned",
    )
    counts = result.stages["data"].counts
    assert counts["rows_in"] == 230
    assert counts["rows_in"] == counts["kept"] + counts["dropped"]
    evaluation = result.stages["evaluate-tuned"]
    assert evaluation.n == 6
    assert {"bleu4", "rouge_l", "perplexity"} <= evaluation.metrics.keys()
    assert "accuracy" in evaluation.skipped, "free answers have no accuracy, and the artifact says why"
