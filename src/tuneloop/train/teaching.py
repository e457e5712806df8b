"""The teacher of a run: checked against the student, and read once where only its best tokens are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneloop.errors import ModelError
from tuneloop.models import fingerprint, load_model, load_tokenizer
from tuneloop.progress import log
from tuneloop.rundir import RunDir
from tuneloop.train.config import TrainConfig
from tuneloop.types import Example

if TYPE_CHECKING:
    from tuneloop.train.objectives import Teacher


def open_teacher(
    config: TrainConfig,
    folder: Path | None,
    student: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    out: RunDir,
    *,
    dtype: str = "auto",
) -> Teacher | None:
    """The teacher that a configuration asks for; None when its objective has none.

    With ``top_k`` its best tokens of all rows are computed first (or found: in ``checkpoints/teacher``, where they stay
    until the run is finished), and the teacher is not in memory while the student learns.

    Args:
        config: Of the run.
        folder: The teacher's model folder.
        student: The student's model, before adapters.
        tokenizer: The student's.
        examples: All rows that will be trained or watched.
        out: The run.
        dtype: Of the teacher's weights.

    Raises:
        ModelError: There is no teacher, or its vocabulary is another.
    """
    from tuneloop.train.objectives import cached
    from tuneloop.train.objectives.teacher import LiveTeacher, check_vocabulary, shared_width

    settings = config.distil
    if settings is None:
        return None
    if folder is None:
        raise ModelError("there is no teacher to learn from", hint="give train.run the folder of the teacher")
    vocabulary = check_vocabulary(tokenizer, load_tokenizer(folder))
    model = load_model(folder, dtype=dtype)
    width = shared_width(student, model, vocabulary)
    log(f"  teacher: {folder.name}, {sum(p.numel() for p in model.parameters()):,} weights, {settings.divergence}")

    def live(padding_free: bool) -> LiveTeacher:
        return LiveTeacher(model, width=width, temperature=settings.temperature, padding_free=padding_free)

    if not settings.top_k:
        return live(config.memory.padding_free)
    k = min(settings.top_k, width - 1)
    place = Path(out.path) / "checkpoints" / cached.FOLDER
    shape: dict[str, Any] = {"k": k, "width": width, "temperature": settings.temperature}
    key = cached.key_of(fingerprint(folder), str(model.dtype), examples, **shape)
    cached.write(place, key, lambda: live(True), examples, k)
    return cached.CachedTeacher(place, examples, **shape)
