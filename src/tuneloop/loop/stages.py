"""Which stages there are, what each depends on, how each is done.

Each stage is a folder of the run (see ``rundir``); what is unchanged is reused, what was interrupted continues.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from tuneloop import chat, compare, compress, data, engines, evaluate, models, report, serve, train
from tuneloop.compress import CompressConfig
from tuneloop.config import Config, hash_json
from tuneloop.errors import ConfigError, ModelError
from tuneloop.loop.ask import Asked
from tuneloop.loop.config import ProjectConfig, load_project
from tuneloop.loop.guard import explained, free_memory, interruptible, without_fetching
from tuneloop.progress import duration, log
from tuneloop.rundir import Run, RunDir
from tuneloop.serve import ServeConfig
from tuneloop.types import Verdict

R = TypeVar("R")
Plan = Literal["reuse", "continue", "run"]

STAGES = (
    "data",
    "train",
    "evaluate-base",
    "evaluate-tuned",
    "compress",
    "evaluate-compressed",
    "serve",
    "compare",
    "compare-compressed",
)
"""Folder names of the stages, in order; the report follows them."""

SMOKE_REQUESTS = 24
"""Test questions that are asked over HTTP in the serve stage."""


@dataclass(frozen=True, slots=True)
class LoopResult:
    """A finished run: where it is, what the gate said, and the summary as printed."""

    run: Run
    verdict: Verdict | None
    report: Path | None
    summary: tuple[str, ...]
    reused: tuple[str, ...]
    stages: dict[str, Any] = field(default_factory=dict)


def run(path: Path | str, *overrides: str, until: str | None = None) -> LoopResult:
    """Run a project, or the part of it that a stage needs.

    Args:
        path: The YAML file.
        overrides: ``section.key=value``.
        until: Stop after this stage (a name of ``STAGES``); None does everything and writes the report.

    Raises:
        TuneloopError: See the tree in ``tuneloop.errors``.
    """
    loaded = load_project(path, overrides)
    for note in loaded.notes:
        log(f"note: {note}")
    return Loop(loaded.value, command=shlex.join(["tuneloop", "run", str(path), *overrides])).run(until)


class Loop:
    """The stages of one project, with the artifacts of those that are done.

    Args:
        config: The project.
        command: What to type to continue after an interruption.
        world: The processes that train together; this is the main one of them.
    """

    needs: ClassVar[dict[str, tuple[str, ...]]] = {
        "data": (),
        "train": ("data",),
        "evaluate-base": ("data",),
        "evaluate-tuned": ("data", "train"),
        "compress": ("data", "train"),
        "evaluate-compressed": ("data", "compress"),
        "serve": ("data", "train", "evaluate-tuned", "compress", "evaluate-compressed"),
        "compare": ("evaluate-base", "evaluate-tuned"),
        "compare-compressed": ("evaluate-tuned", "evaluate-compressed"),
    }

    def __init__(
        self, config: ProjectConfig, *, command: str = "tuneloop run", world: train.World | None = None
    ) -> None:
        self.config, self.command, self.world = config, command, world or train.World()
        self.run_folder = Run(config.runs_folder / config.name)
        self.done: dict[str, Any] = {}
        self.reused: list[str] = []
        self._model: Path | None = None
        self._folders: dict[str, RunDir] = {}

    def planned(self, until: str | None = None) -> list[str]:
        """The stages that would run, in order."""
        off: dict[str, str] = {}
        if self.config.compress is None:
            off |= dict.fromkeys(("compress", "evaluate-compressed", "compare-compressed"), "compress")
        if self.config.serve is None:
            off["serve"] = "serve"
        if until is None:
            return [s for s in STAGES if s not in off]
        if until in off:
            raise ConfigError(
                f"the stage {until!r} is switched off ({off[until]}: null)",
                where=off[until],
                hint=f"give the section {off[until]}: in the YAML, or {off[until]}={{}} on the command line",
            )
        wanted: set[str] = set()
        todo = [until]
        while todo:
            stage = todo.pop()
            wanted.add(stage)
            todo += [n for n in self.needs[stage] if n not in wanted and n not in off]
        return [s for s in STAGES if s in wanted]

    def forecast(self, until: str | None = None) -> dict[str, Plan]:
        """What ``run`` would do with each stage. Nothing is written and nothing is fetched.

        A stage after one that has to run counts as ``run``, although equal outputs would let it be reused.
        """
        out: dict[str, Plan] = {}
        for name in self.planned(until):
            out[name] = "run"
            if any(out.get(needed, "reuse") != "reuse" for needed in self.needs[name]):
                continue
            try:
                with without_fetching():
                    config, inputs, _, read = self._plan(name)
            except ModelError as error:  # not on this machine yet: the run itself would fetch it, or say why not
                log(f"note: {error.what}")
                continue
            found = self.run_folder.find(name, config, inputs)
            if found is not None and found.complete:
                out[name], self._folders[name], self.done[name] = "reuse", found, read(found)
            elif found is not None:
                out[name] = "continue"
        return out

    def run(self, until: str | None = None) -> LoopResult:
        """Do the stages."""
        stages = self.planned(until)
        self._folders.clear()
        with self.run_folder.lock(), interruptible(self.command), explained(self.run_folder.root):
            for number, name in enumerate(stages, 1):
                self._stage(name, f"[{number}/{len(stages)}] {name}")
            path = report.write(self.run_folder, self.config.name) if until is None else None
        summary = tuple(report.summary(self.run_folder)) if until is None else ()
        compared = self.done.get("compare")
        verdict = compared.verdict if compared is not None else None
        return LoopResult(self.run_folder, verdict, path, summary, tuple(self.reused), dict(self.done))

    def _stage(self, name: str, header: str) -> None:
        start = time.monotonic()
        config, inputs, work, read = self._plan(name)
        announced = False

        def announce(out: RunDir) -> Any:
            nonlocal announced
            announced = True
            log(header)
            return work(out)

        self.done[name], reused = self.run_folder.stage(name, config, inputs, announce, read)
        free_memory()
        if reused:
            self.reused.append(name)
            log(f"{header}: unchanged, reused")
        elif announced:
            log(f"  done in {duration(time.monotonic() - start)}")

    def _plan(self, name: str) -> _Plan[Any]:
        """Configuration, input hashes, the work, how to read its result: each stage has a method that says these."""
        plan: _Plan[Any] = getattr(self, "_" + name.replace("-", "_"))()
        return plan

    def _data(self) -> _Plan[data.DataArtifact]:
        config = self.config.data
        if "seed" not in config.model_fields_set:
            config = config.model_copy(update={"seed": self.config.seed})
        inputs = data.input_hashes(config)
        if not data.asks(config):
            return config, inputs, partial(data.run, config), data.load
        model = self._model_hash()

        def work(out: RunDir) -> data.DataArtifact:
            asked = Asked(self._base(), self.config.engine, self._model_config.chat_template)
            try:
                return data.run(config, out, ask=asked, asked=model)
            finally:
                asked.close()

        return config, {**inputs, "model": model}, work, data.load

    def _train(self) -> _Plan[train.TrainResult]:
        config, records, base = self.config.train, self._records, self._base()
        model, seed = self._model_config, self.config.seed
        teacher = self.teacher()
        taught = {"teacher": models.fingerprint(teacher)} if teacher else {}

        def work(out: RunDir) -> train.TrainResult:
            return train.run(
                config, base, records, out,
                seed=seed, dtype=model.dtype, chat_template=model.chat_template, teacher=teacher, world=self.world,
            )  # fmt: skip

        return config, self._inputs("data", model=self._model_hash(), seed=str(seed), **taught), work, train.load

    def _evaluate_base(self) -> _Plan[evaluate.Evaluation]:
        base = self._base()
        return self._evaluation("base", lambda: models.open_bundle(base), model=self._model_hash())

    def _evaluate_tuned(self) -> _Plan[evaluate.Evaluation]:
        return self._evaluation("tuned", lambda: self.done["train"].bundle, train=self._fingerprint("train"))

    def _evaluate_compressed(self) -> _Plan[evaluate.Evaluation]:
        return self._evaluation(
            "compressed", lambda: self.done["compress"].bundle, compress=self._fingerprint("compress")
        )

    def _evaluation(self, label: str, bundle: Callable[[], models.Bundle], **inputs: str) -> _Plan[evaluate.Evaluation]:
        config, engine_config, records = self.config.evaluate, self.config.engine, self._records
        template = self._model_config.chat_template

        def work(out: RunDir) -> evaluate.Evaluation:
            subject = evaluate.Subject(bundle(), label)
            talk = chat.Chat(models.load_tokenizer(subject.bundle), template=template)  # type: ignore[arg-type]
            engine = engines.create(engine_config, subject.bundle)  # type: ignore[arg-type]
            try:
                return evaluate.run(config, subject, records, engine, talk, out)
            finally:
                engine.close()

        return config, self._inputs("data", engine=engine_config.hash(), **inputs), work, evaluate.load

    def _compress(self) -> _Plan[compress.Compressed]:
        config = self.config.compress or CompressConfig()

        def work(out: RunDir) -> compress.Compressed:
            return compress.run(config, self.done["train"].bundle, self._records, out)

        return config, self._inputs("data", "train"), work, compress.load

    def _serve(self) -> _Plan[Any]:
        config = self.config.serve or ServeConfig()
        small = self.done.get("compress")
        source, judged = ("compress", "evaluate-compressed")
        if small is None or not small.parity.ok:  # what fails parity is never served
            source, judged = ("train", "evaluate-tuned")
        answered = self._folder(judged)

        def work(out: RunDir) -> Any:
            records = data.read_records(self._records, "test")[:SMOKE_REQUESTS]
            known = {row["id"]: row["answer"] for row in _json_lines(answered / "scores.jsonl")}
            asked = [r for r in records if r.id in known] or records
            expected = [known[r.id] for r in asked] if all(r.id in known for r in asked) else None
            budget = evaluate.load(answered).facts["max_new_tokens"] if answered.complete else 32
            return serve.smoke(
                config, self.done[source].bundle, [r.prompt for r in asked], out, expected=expected, max_tokens=budget
            )

        return config, self._inputs("data", source, judged), work, serve.load

    def _compare(self) -> _Plan[compare.Comparison]:
        return self._comparison("base", "tuned", "better")

    def _compare_compressed(self) -> _Plan[compare.Comparison]:
        return self._comparison("tuned", "compressed", "not worse")

    def _comparison(self, baseline: str, candidate: str, question: compare.Question) -> _Plan[compare.Comparison]:
        config, folders = self.config.compare, [f"evaluate-{baseline}", f"evaluate-{candidate}"]

        def work(out: RunDir) -> compare.Comparison:
            before, after = (evaluate.scores(self.run_folder.dir(f)) for f in folders)
            return compare.run(config, before, after, out, question=question, baseline=baseline, candidate=candidate)

        return config, self._inputs(*folders, question=question), work, compare.load

    @property
    def _records(self) -> Path:
        return self._folder("data").path

    def base(self) -> Path:
        """The folder of the base model, fetched where it has to be."""
        return self._base()

    def teacher(self) -> Path | None:
        """The folder of the model that training learns from, fetched where it has to be."""
        settings = self.config.train.distil
        return models.resolve(models.ModelConfig(name=settings.teacher)) if settings else None

    @property
    def model(self) -> models.ModelConfig:
        """What the project says about its model.

        Raises:
            ConfigError: It names none.
        """
        return self._model_config

    @property
    def _model_config(self) -> models.ModelConfig:
        if self.config.model is None:
            raise ConfigError(
                "no model is named",
                where=f"{self.config.name}: model",
                hint="add model: {name: smollm2-135m-instruct}, another name, or a folder; tuneloop doctor lists them",
            )
        return self.config.model

    def _base(self) -> Path:
        if self._model is None:
            self._model = models.resolve(self._model_config)
        return self._model

    def _model_hash(self) -> str:
        """The base model and how it is loaded."""
        model = self._model_config
        return hash_json([models.fingerprint(self._base()), model.dtype, model.chat_template])

    def _folder(self, stage: str) -> RunDir:
        return self._folders.get(stage) or self.run_folder.dir(stage)

    def _fingerprint(self, stage: str) -> str:
        return self._folder(stage).fingerprint

    def _inputs(self, *stages: str, **more: str) -> dict[str, str]:
        return {s: self._fingerprint(s) for s in stages} | more


_Plan = tuple[Config, dict[str, str], Callable[[RunDir], R], Callable[[RunDir], R]]


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    import json

    if path.exists():
        with path.open(encoding="utf-8") as file:  # not splitlines: an answer may hold U+2028
            for line in file:
                yield json.loads(line)
