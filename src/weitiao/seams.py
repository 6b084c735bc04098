"""What crosses a door: frozen values and the protocols between rooms. Loads without torch.

Order of the path: ``Record`` (a row as read) -> ``Sample`` (a conversation with its truth) -> ``Rendered`` (its tokens)
-> ``EncodedRow`` -> ``TrainResult``; and ``Sample`` -> ``Answer`` -> ``Scores`` -> ``Comparison``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

    from weitiao.errors import RowError

IGNORED = -100
"""Label of a token that is not trained (the value that torch's cross entropy ignores)."""

Role = Literal["system", "user", "assistant"]
SplitName = Literal["train", "valid", "test"]
EndedBy = Literal["stop", "length", "constraint"]
"""How an answer ended: a stop token, the limit on new tokens, or a constraint that allowed nothing more."""


# ---- data -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entity:
    """A span of a text: ``text[start:end]`` is ``surface``; offsets count characters and ``end`` is exclusive."""

    start: int
    end: int
    surface: str
    label: str


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a message: text, or an image by path."""

    kind: Literal["text", "image"]
    text: str = ""
    image: Path | None = None
    shortenable: bool = False
    """Whether this piece is the user's own long text, the only thing that may be shortened to fit ``max_tokens``."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """All text pieces joined; images leave nothing."""
        return "".join(part.text for part in self.parts if part.kind == "text")


def text_message(role: Role, text: str) -> Message:
    """A message of one text piece."""
    return Message(role, (Part("text", text),))


@dataclass(frozen=True, slots=True)
class Record:
    """A row as read, in the project's own words, whatever shape the file had. Fields that the row lacks are empty."""

    origin: str
    """``file:row``; rows count from 1 as an editor or spreadsheet shows them."""
    id: str
    """The row's own id, or a content hash of 16 hexadecimal digits. Unique within a data set."""
    text: str = ""
    """The user's own text: article, complaint, sentence, or the user's question in instruction data."""
    instruction: str = ""
    """A per-row task description that stands before ``text`` (alpaca's ``instruction`` beside ``input``)."""
    system: str = ""
    answer: str | None = None
    """The wanted answer as text, exactly as in the file; None where the row has none."""
    labels: tuple[str, ...] = ()
    """The right label, or labels for multi-label rows."""
    candidates: tuple[str, ...] = ()
    """Labels to choose from in this row."""
    entities: tuple[Entity, ...] | None = None
    messages: tuple[Message, ...] = ()
    """A whole conversation where the row is one, the last assistant turn being the answer."""
    images: tuple[Path, ...] = ()
    captions: tuple[str, ...] = ()
    group: str = ""
    """Value of the grouping column; rows of one group never land in two splits."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A checked conversation. The last message is the assistant's (the answer that is trained), unless the row has no answer."""

    id: str
    origin: str
    messages: tuple[Message, ...]
    reference: Any = None
    """The truth in the task's own form, JSON-able: a dict of fields, a label, a list of entities, a text."""
    group: str = ""
    candidates: tuple[str, ...] = ()

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Every message before the answer."""
        return self.messages[:-1] if self.has_answer else self.messages

    @property
    def has_answer(self) -> bool:
        """Whether the last message is the assistant's."""
        return bool(self.messages) and self.messages[-1].role == "assistant"


Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that the audit found."""

    code: str
    """Stable name in kebab case, e.g. ``duplicate-rows``."""
    severity: Severity
    count: int
    message: str
    origins: tuple[str, ...]
    """Up to three ``file:row`` examples."""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class DataReport:
    """What was read and what became of it; the content of ``data.json``."""

    shape: str
    """Name of the recognised row shape, and the columns it took, as one sentence."""
    n_read: int
    n_kept: int
    rejected: Mapping[str, int]
    """Rows left out, by reason; ``n_read == n_kept + sum(rejected.values())``."""
    rejected_examples: Mapping[str, tuple[str, ...]]
    findings: tuple[Finding, ...]
    split: Mapping[str, int]
    fingerprint: str
    """SHA-256 over the kept rows and their split."""
    statistics: Mapping[str, Any] = field(default_factory=dict)
    """Histograms and counts for the report: label balance, character lengths, image sizes."""
    tokens: Mapping[str, Any] = field(default_factory=dict)
    """Lengths of the training rows in tokens and what was cut; ``not_counted`` says why there are none."""


@dataclass(frozen=True, slots=True)
class SampleSet:
    """Checked samples in three disjoint parts."""

    train: Sequence[Sample]
    valid: Sequence[Sample]
    test: Sequence[Sample]
    report: DataReport


@dataclass(frozen=True, slots=True)
class RowProblem:
    """What a task says of a record it can still use, or cannot (severity ``error``)."""

    code: str
    severity: Severity
    message: str
    hint: str = ""


# ---- tokens -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as a vision model takes it: which file, and the size it is brought to. Found out from the file's header alone."""

    path: Path
    height: int
    """In pixels, after resizing."""
    width: int
    grid: tuple[int, int, int]
    """Frames (always 1), patches down, patches across: the model's ``image_grid_thw``."""
    n_tokens: int
    """Placeholder tokens that stand for it in ``input_ids``."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """One conversation as tokens. ``trained[i]`` says whether token ``i`` belongs to an answer (its stop token included)."""

    input_ids: list[int]
    trained: list[bool]
    pictures: tuple[Picture, ...] = ()
    """In the order of their placeholder tokens."""
    n_shortened: int = 0
    """Tokens taken out of the shortenable piece to fit; 0 where the row fitted."""


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One training row, not shifted: ``labels[i]`` is ``input_ids[i]`` or -100."""

    input_ids: list[int]
    labels: list[int]
    segment_lengths: tuple[int, ...]
    """Tokens of each conversation in this row, without the shared prefix. A row that is not packed has one segment."""
    prefix_length: int = 0
    """Tokens at the start that every segment begins with; they stand once. ``prefix_length + sum(segment_lengths) == len(input_ids)``."""
    pictures: tuple[Picture, ...] = ()
    """In the order of their placeholder tokens."""


@dataclass(frozen=True, slots=True)
class EncodedSet:
    """Token rows of the training part, and what encoding did to them."""

    rows: Sequence[EncodedRow]
    n_tokens: int
    n_supervised_tokens: int
    n_shortened: int
    dropped: Mapping[str, str]
    """Rows that cannot be encoded: sample id -> reason with origin."""
    lengths: Sequence[int]
    """Tokens per row."""
    max_prompt_tokens: int
    """Longest prompt of the run: training, evaluation and prediction shorten a text to it."""
    findings: tuple[Finding, ...] = ()
    """What is to be said of lengths: rows shortened, rows too long, the longest row, the one with most image tokens."""
    full_lengths: Mapping[str, Any] = field(default_factory=dict)
    """How the lengths of the samples in tokens are spread, before anything was cut; ``at``: origin of the longest."""
    image_tokens: Mapping[str, Any] = field(default_factory=dict)
    """The same of the tokens that stand for images, over samples with images; empty without."""


class Steps(Protocol):
    """The optimizer steps of an epoch, each a list of (packed) rows that are computed one after another."""

    @property
    def micro_batch_tokens(self) -> int:
        """Most tokens of one of these rows."""
        ...

    def __len__(self) -> int:
        """Steps per epoch, the same in each."""
        ...

    def step(self, epoch: int, index: int) -> list[EncodedRow]:
        """Rows of one step; depends on nothing but the arguments and the seed."""
        ...


# ---- models and training ----------------------------------------------------------------------------------------------


class Vision(Protocol):
    """How the language model of a vision model is given pictures; one object for training and answering."""

    placeholder_id: int
    """Token that stands for an image's tokens in ``input_ids``."""

    @property
    def needs_tower(self) -> bool:
        """Whether the network's vision tower is asked; False where all that is wanted lies in the feature store."""
        ...

    def positions(self, input_ids: Sequence[int], segment_lengths: Sequence[int], pictures: Sequence[Picture]) -> torch.Tensor:
        """(3, T) positions (time, height, width) by the model's own rule, beginning anew with each segment of the T tokens."""
        ...

    def encoder_outputs(self, pictures: Sequence[Picture]) -> dict[str, Any]:
        """The network's ``mm_encoder_outputs`` for the pictures of a batch, in the order of their tokens; empty without pictures."""
        ...


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A base model ready to answer: in eval mode, on its device, in its dtype."""

    network: Any
    """The ``transformers`` model (``PreTrainedModel``), or a PEFT model around it after tuning."""
    processor: Any
    """The tokenizer (``PreTrainedTokenizerBase``), or the processor of a vision model."""
    path: Path
    """The folder the weights were read from."""
    name: str
    """What the recipe called it."""
    dtype: torch.dtype
    """Of the arithmetic; weights that are trained are kept in float32 beside it."""
    is_vision: bool = False
    vision: Vision | None = None
    """What gives a run's network its pictures; None for text models, and where an engine asks the tower itself."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The outcome of training: the network as it stands after loading the best checkpoint, and where that lies."""

    model: LoadedModel
    checkpoint: Path
    """``RUN/best``."""
    best_step: int
    best_metric: float | None
    n_steps: int
    seconds: float
    tokens_per_second: float
    peak_memory_bytes: int


# ---- answers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn. ``temperature == 0`` is greedy."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said to one prompt."""

    text: str
    n_prompt_tokens: int
    n_new_tokens: int
    ended_by: EndedBy
    label_probabilities: Mapping[str, float] | None = None
    """For label scoring: each candidate's probability; sums to 1."""
    nll: float | None = None
    """For likelihood scoring: summed negative log likelihood of the reference, in nats."""
    n_scored_tokens: int = 0
    """Tokens that ``nll`` sums over; ``evaluate.measure`` fills it from what ``Engine.likelihood`` counted."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """What an answer may look like; at most one field is set, and none means anything."""

    json_schema: Mapping[str, Any] | None = None
    choices: tuple[str, ...] | None = None
    regex: str | None = None
    """A pattern that the whole answer matches: literals, classes, groups, ``|``, ``?``, ``*`` and ``+``; no look-around."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer, read by its task."""

    value: Any
    """JSON-able, in the form of ``Sample.reference``; None where nothing could be read."""
    is_valid: bool
    """Whether the answer had the task's form (valid JSON, a known label)."""
    forgiven: tuple[str, ...] = ()
    """What the parser had to overlook, e.g. ``code fence``."""
    flags: tuple[str, ...] = ()
    """Warnings for the reader, e.g. ``name: not in the text``."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Metrics of one model on one set of rows; the content of a ``scores.json``."""

    n: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    """95 % percentile-bootstrap interval over rows, per metric."""
    length_limited: float
    """Share of answers that ran into the limit on new tokens, in [0, 1]."""
    seconds: float
    details: Mapping[str, Any] = field(default_factory=dict)
    """Task tables for the report: confusion matrix, per-field counts, calibration."""
    counts: Any = field(default=None, metadata={"written": False})
    """Per-row sufficient statistics, name -> ``np.ndarray`` of one number per row in the order of the rows; not written to JSON."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Tuned against baseline on the same rows."""

    baseline: Scores
    tuned: Scores
    gain: Mapping[str, tuple[float, float, float]]
    """Metric -> (tuned minus baseline, low, high): paired bootstrap, 95 %."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """Something exported: its kind, place, size and what its check showed."""

    kind: str
    path: Path
    size_bytes: int
    check: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a finished run says to whoever started it."""

    path: Path
    comparison: Comparison | None
    report: Path
    artifacts: tuple[Artifact, ...] = ()


# ---- protocols --------------------------------------------------------------------------------------------------------

Progress = Callable[[int], None]
"""Called with the number of items done since the last call."""


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


AnswerMode = Literal["generate", "labels", "likelihood"]


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
