"""Protocols: what rooms ask of a renderer, an engine, a kind of work and a tracker that they do not import."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from weitiao.seams.answers import Answer, Constraint, Prediction, Sampling
from weitiao.seams.data import Message, Record, RowProblem, Sample
from weitiao.seams.tokens import Rendered

if TYPE_CHECKING:
    import numpy as np

    from weitiao.errors import RowError

AnswerMode = Literal["generate", "labels", "likelihood"]


class Renderer(Protocol):
    """Messages to tokens and back; the same object serves training, evaluation and prediction."""

    stop_token_ids: tuple[int, ...]
    pad_token_id: int
    images: Any
    """Reads images by the run's policy (``chat.images.ImageReader``); None for a text model."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that tokens depend on besides the messages; equal ones give equal tokens."""
        ...

    def conversations(self, batch: Sequence[Sequence[Message]]) -> list[Rendered]:
        """``conversation`` of each, at full length, on all cores."""
        ...

    def shortened(self, batch: Sequence[Sequence[Message]], lengths: Sequence[int], max_tokens: int) -> list[Rendered | RowError]:
        """``conversation`` of each, or why there is none, on all cores; ``lengths`` are their prompts' tokens, above ``max_tokens``."""
        ...

    def conversation(self, messages: Sequence[Message], max_tokens: int | None = None) -> Rendered:
        """Tokens of a whole conversation, answers marked as trained; the shortenable part is cut to fit ``max_tokens``."""
        ...

    def prompt(self, messages: Sequence[Message], max_tokens: int | None = None) -> Rendered:
        """Tokens up to the point where the assistant's answer begins."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of an answer, without its stop token."""
        ...

    def text(self, token_ids: Sequence[int]) -> str:
        """All tokens as text, control tokens included."""
        ...


class Engine(Protocol):
    """Prompts in, answers out, in the order of the prompts."""

    def generate(
        self,
        samples: Sequence[Sample],
        sampling: Sampling,
        constraint: Callable[[Sample], Constraint | None] | None = None,
    ) -> Iterator[tuple[int, Answer]]:
        """Yield ``(index, answer)`` as answers finish, in any order, each index once."""
        ...

    def score_labels(self, samples: Sequence[Sample], labels: Callable[[Sample], Sequence[str]]) -> Iterator[tuple[int, Answer]]:
        """Score each candidate as the answer; ``Answer.text`` is the likeliest, ``label_probabilities`` sums to 1."""
        ...

    def likelihood(self, samples: Sequence[Sample]) -> Iterator[tuple[int, Answer]]:
        """Negative log likelihood of each sample's own answer; ``n_new_tokens`` counts its trained tokens."""
        ...


class Task(Protocol):
    """What a kind of work is: how a row becomes a conversation, how an answer is read, and what counts as right.

    Scores are sums: ``counts`` gives a row's sufficient statistics, ``metrics`` turns sums of them into metrics, elementwise over
    arrays, so that a bootstrap is one matrix product.
    """

    kind: str
    answer_mode: AnswerMode
    default_metric: str
    """Metric for choosing a checkpoint when the recipe names none."""
    lower_is_better: frozenset[str]
    """Metrics for which a smaller value is the better one."""
    questions: tuple[Sample, ...]
    """The recipe's own questions, answered besides the rows (``questions.json``) so that base and tuned model stand side by side."""
    needs_likelihood: bool
    """Whether the reference's likelihood is asked for besides the answer (``chat``: perplexity beside ROUGE-L)."""

    def make_sample(self, record: Record) -> Sample:
        """Turn a record into a conversation; raises ``RowError`` where it cannot be one."""
        ...

    def check_record(self, record: Record) -> list[RowProblem]:
        """Problems that only this kind of work can see: a label outside the candidates, a value not in the text."""
        ...

    def constraint(self, sample: Sample) -> Constraint | None:
        """What decoding may produce for this row."""
        ...

    def parse(self, answer: Answer, sample: Sample) -> Prediction:
        """Read an answer; never raises."""
        ...

    def for_rows(self, samples: Sequence[Sample]) -> Task:
        """The same task, knowing what its scores need of the whole set (CIDEr: how often n-grams occur in it); most return themselves."""
        ...

    def counts(self, prediction: Prediction, answer: Answer, sample: Sample) -> dict[str, float]:
        """Sufficient statistics of one row; every row of a set gives the same keys, missing ones count as 0."""
        ...

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Metrics from summed counts; arrays of any one shape, the same for all."""
        ...

    def row_scores(self, prediction: Prediction, sample: Sample) -> dict[str, float]:
        """Scores of one row for ``answers.jsonl``, the first being the main one, each in [0, 1], higher is better."""
        ...

    def details(self, predictions: Sequence[Prediction], answers: Sequence[Answer], samples: Sequence[Sample]) -> dict[str, Any]:
        """JSON-able tables for the report."""
        ...


class Tracker(Protocol):
    """Where numbers and predictions go besides the run folder."""

    def settings(self, values: Mapping[str, Any]) -> None:
        """Record the resolved recipe and facts of the run."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers of one optimizer step."""
        ...

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Record a table, e.g. predictions before and after."""
        ...
