"""The door's function: the rows of a file answered window by window, each answer written as it comes."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path

from weitiao import data, evaluate
from weitiao.errors import CommandError, EngineError, Problems, RowError
from weitiao.log import logger, progress
from weitiao.predict.confidence import calibrated, require_likelihood, token_confidence
from weitiao.predict.files import alone, answered_rows, rejected_path
from weitiao.predict.keys import Done, UniqueIds, hexadecimal
from weitiao.predict.ledger import Ledger, PredictSummary
from weitiao.recipe import Recipe
from weitiao.seams import Answer, Engine, Sample, Task

WINDOW = 1024
"""Rows held at once; the engine sorts them by length."""
REMEMBERED = 16384
"""Latest distinct prompts whose answers are kept for equal ones."""
TOGETHER = 64
"""Least number of answers whose tokens' probabilities are asked for together."""
SHARE_TOGETHER = 16
"""Of a wide window, one part in so many: an engine that starts anew at each call should not do so too often."""


def predict_file(
    engine: Engine,
    task: Task,
    recipe: Recipe,
    source: str | Path,
    output: Path,
    candidates: tuple[str, ...] = (),
    *,
    identity: str = "",
    temperature: float = 1.0,
    min_confidence: float | None = None,
    window: int = WINDOW,
) -> PredictSummary:
    """Answer every row of a file, in memory that hardly grows with it: some 24 bytes a row, more where ids repeat.

    Args:
        engine: answers; equal prompts are asked once, as long as they are at most ``REMEMBERED`` distinct prompts apart.
        task: makes prompts and reads answers.
        recipe: how the file's columns are read.
        source: rows with or without answers: a file, or a folder of images.
        output: JSONL; appended to. Rows that it holds are not answered again; a half line left by a crash is removed.
        candidates: labels or entity types for rows that name none.
        identity: names the weights that answer; an output with answers of others is refused.
        temperature: of label probabilities, from the run's calibration.
        min_confidence: rows below it go to ``OUTPUT.unsure.jsonl`` instead, in (0, 1]; None: all rows go to ``output``.
        window: rows held at once, >= 1.

    Returns:
        Counts; answered, unsure, already and rejected rows together are the rows of the file.

    Raises:
        CommandError: the output is no .jsonl file, is the source, holds something else, answers to other rows or rows sorted by another
            ``min_confidence``, or another process writes to it.
        DataError: the source cannot be read, or no row of it can be used.
        EngineError: the engine cannot answer, or cannot tell how sure it is.
    """
    _refuse_output(output, source)
    if min_confidence is not None and task.answer_mode == "generate":
        require_likelihood(engine)
    with alone(output), ExitStack() as stack:
        total = data.count_rows(source, recipe.data, task.kind)
        done = answered_rows(output, min_confidence)
        ledger = Ledger(output, task, min_confidence, stack.enter_context(progress("predicting", total)), stack)
        together = max(TOGETHER, window // SHARE_TOGETHER) if min_confidence is not None else 0
        asker = _Asker(engine, task, recipe, ledger.reject, temperature, together=together)
        samples = data.stream_file(source, recipe.data, task, ledger.reject, candidates=candidates)
        for new in _new_rows(samples, lambda sample: _is_done(sample, done, output, identity), window, ledger.pass_over):
            for sample, answer, confidence in asker.answers(new):
                ledger.write(sample, answer, confidence, question_key(sample, identity))
    if asker.n_repeated:
        logger.info("%d rows had the prompt of another row and were not asked again", asker.n_repeated)
    return ledger.summary()


def _refuse_output(output: Path, source: str | Path) -> None:
    if output.suffix != ".jsonl":
        raise CommandError("answers are written as .jsonl", where=str(output), hint="name the output answers.jsonl")
    if output.exists() and Path(source).exists() and output.samefile(source):
        raise CommandError("this is the file whose rows are to be answered", where=str(output), hint="name another output with -o")
    if output.name == rejected_path(output).name:
        raise CommandError("rejected rows are listed under this name", where=str(output), hint="name the output answers.jsonl")


def _is_done(sample: Sample, done: Done, output: Path, identity: str) -> bool:
    """Whether an earlier call answered the row; another text or other weights under its id are refused, not passed over."""
    if sample.id not in done.ids:
        return False
    if f"{sample.id}\0{question_key(sample, identity)}" not in done.questions:
        raise CommandError(
            f"{output} holds an answer under the id {sample.id!r} of this row that was given to another text or by another model",
            where=sample.origin,
            hint="name another output with -o",
        )
    return True


def _new_rows(
    samples: Iterator[Sample], is_done: Callable[[Sample], bool], window: int, pass_over: Callable[[int], None]
) -> Iterator[list[Sample]]:
    """Rows, each with an id of its own, a window at a time; those that are done are only counted."""
    names = UniqueIds()
    while rows := list(islice(samples, window)):
        named = [replace(sample, id=names.of(sample.id)) for sample in rows]
        new = [sample for sample in named if not is_done(sample)]
        pass_over(len(named) - len(new))
        yield new


Answered = tuple[Sample, Answer, float | None]
"""A row, its answer with calibrated probabilities, and how sure it is where that is known."""


class _Asker:
    """Asks an engine for the answers of a window, each distinct prompt once, and goes on without rows that it refuses."""

    def __init__(
        self, engine: Engine, task: Task, recipe: Recipe, reject: Callable[[str, str], None], temperature: float, *, together: int
    ) -> None:
        """Keep the parts; ``together`` answers are asked for their confidence at once, 0 where nobody asks for it."""
        self.n_repeated = 0
        self._engine = engine
        self._task = task
        self._recipe = recipe
        self._reject = reject
        self._temperature = temperature
        self._together = together
        self._known: OrderedDict[bytes, tuple[Answer, float | None]] = OrderedDict()

    def answers(self, samples: Sequence[Sample]) -> Iterator[Answered]:
        """Answers as they come, in any order; rows that the engine refuses are rejected."""
        waiting: OrderedDict[bytes, list[Sample]] = OrderedDict()
        for sample in samples:
            key = prompt_key(sample)
            if key in self._known:
                self.n_repeated += 1
                self._known.move_to_end(key)
                yield sample, *self._known[key]
            else:
                waiting.setdefault(key, []).append(sample)
        first_of = {key: rows[0] for key, rows in waiting.items()}
        for key, answer, confidence in self._asked(first_of):
            self._known[key] = (answer, confidence)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            rows = waiting.pop(key)
            self.n_repeated += len(rows) - 1
            for sample in rows:
                yield sample, answer, confidence
        for rows in waiting.values():
            for sample in rows[1:]:
                self._reject(sample.origin, "its prompt is that of a rejected row")

    def _asked(self, samples: dict[bytes, Sample]) -> Iterator[tuple[bytes, Answer, float | None]]:
        """Ask until every row is answered or rejected."""
        left = dict(samples)
        while left:
            keys = list(left)
            batch = [self._question(left[key]) for key in keys]
            try:
                for index, answer, confidence in self._with_confidences(batch):
                    yield keys[index], answer, confidence
                    del left[keys[index]]
            except (RowError, EngineError, Problems) as error:
                reasons = {each.where: each.what for each in (error.problems if isinstance(error, Problems) else [error])}
                culprits = [key for key in left if left[key].origin in reasons]
                if not culprits:
                    raise
                for key in culprits:
                    origin = left.pop(key).origin
                    self._reject(origin, reasons[origin])
            else:
                if left:
                    raise EngineError(f"the engine left {len(left)} rows without an answer", where=next(iter(left.values())).origin)

    def _question(self, sample: Sample) -> Sample:
        """The row without its answer, which must not be scored; a document is scored as it stands."""
        return sample if self._task.answer_mode == "likelihood" else replace(sample, messages=sample.prompt)

    def _with_confidences(self, samples: Sequence[Sample]) -> Iterator[tuple[int, Answer, float | None]]:
        answers = evaluate.ask(self._engine, self._task, samples, self._recipe.evaluate, self._recipe.run.seed)
        if self._together and self._task.answer_mode == "generate":
            while group := list(islice(answers, self._together)):
                rows = [samples[i] for i, _ in group]
                confidences = token_confidence(self._engine, rows, [answer for _, answer in group])
                yield from ((i, answer, sure) for (i, answer), sure in zip(group, confidences, strict=True))
            return
        for i, answer in answers:
            if answer.label_probabilities is None:
                if self._together:
                    hint = "leave --min-confidence out, or use --engine embedded"
                    raise EngineError("this engine tells no probabilities of labels", where="--min-confidence", hint=hint)
                yield i, answer, None
            else:
                probabilities = calibrated(answer.label_probabilities, self._temperature)
                yield i, replace(answer, label_probabilities=probabilities), max(probabilities.values())


def question_key(sample: Sample, identity: str) -> str:
    """What was asked of which weights, in 16 hexadecimal digits: the row's text and candidates, and the content of its images."""
    return hexadecimal(identity + _asked(sample, _content))


def _content(image: Path) -> str:
    """A file's hash; the name of what is none."""
    if not image.is_file():
        return image.name
    with image.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def prompt_key(sample: Sample) -> bytes:
    """What an answer depends on, in 16 bytes; for a document, its text."""
    return hashlib.blake2b(_asked(sample, str).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _asked(sample: Sample, name: Callable[[Path], str]) -> str:
    """The turns before the answer, or a document, with images as ``name`` gives them, and the candidates."""
    messages = sample.prompt or sample.messages
    turns = [[message.role, [[part.text, name(part.image) if part.image else ""] for part in message.parts]] for message in messages]
    return json.dumps([turns, list(sample.candidates)], ensure_ascii=False)
