"""``tuneloop train --rehearse`` and ``--find-learning-rate``: what they print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuneloop.cli.options import print_json
from tuneloop.progress import duration

if TYPE_CHECKING:
    from tuneloop.loop import Loop


def show_rehearsal(loop: Loop, *, as_json: bool) -> None:
    """Rehearse and say what it showed."""
    from tuneloop.loop import rehearse

    found = rehearse(loop)
    if as_json:
        print_json(found)
        return
    estimate = found.estimated_memory_bytes
    about = f" (estimated {estimate / 1e9:.2f} GB)" if estimate else ""
    print(f"rehearsal: two steps, saved, merged, loaded and asked; report {loop.run_folder.root / 'rehearsal.json'}")
    print(f"  peak memory {found.peak_memory_bytes / 1e9:.2f} GB{about}, bundle {found.bundle_bytes / 1e6:.1f} MB")
    print(f"  {found.step_s:.2f} s a step, {found.tokens_per_s:,.0f} tokens/s")
    print(f"  the whole run: {found.steps:,} steps in about {duration(found.forecast_s)}, without validation")
    print(
        f"  train and save {found.train_and_save_s:.1f} s, load and merge {found.reload_and_merge_s:.1f} s, "
        f"answer {found.answer_s:.1f} s: {found.answer!r}"
    )
    for warning in found.warnings:
        print(f"  warning: {warning['what']}; {warning['advice']}")


def show_sweep(loop: Loop, *, as_json: bool) -> None:
    """Sweep the learning rate and print the table."""
    from tuneloop.loop import find_learning_rate

    found = find_learning_rate(loop)
    if as_json:
        print_json(found)
        return
    print("\n".join(found.table()))
    print(f"picture: {loop.run_folder.root / 'learning-rate.svg'}")
    if found.suggestion is None:
        print("no rate is suggested: the loss never fell; try more rows a step (train.batch_size)")
    else:
        print(f"suggested: train.learning_rate={found.suggestion:.1e} (where the smoothed loss falls most steeply)")
