"""The sections of a recipe. Names are Hugging Face's where it has one; LoRA names are PEFT's.

A section is handed to one room. The string under a field is its help in ``weitiao --help``, in the docs and in ``init``'s comments.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from weitiao.recipe.tasks import TaskSection


class Section(BaseModel):
    """A part of the recipe: frozen, every key known."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False)


class Source(Section):
    """Where rows come from."""

    path: str
    """A file, a folder, a glob, or ``hub:OWNER/NAME``. Relative paths start at the recipe's folder, then at the working folder."""
    subset: str | None = None
    """Configuration name of a hub data set."""
    split: str | None = None
    """Split of a hub data set, ``train`` where it is not given."""
    weight: float = Field(1.0, gt=0, le=100)
    """How often the rows of this source are used in training: 0.5 takes a seeded half of them, 2 takes each twice."""


Sources = Source | Annotated[list[Source], Field(min_length=1)]


class Split(Section):
    """How rows without a file of their own are set aside. Shares of the whole, by content hash: new rows do not move old ones."""

    valid: float = Field(0.1, ge=0, lt=1)
    """Share for choosing the best checkpoint."""
    test: float = Field(0.2, ge=0, lt=1)
    """Share for the final figures; never seen before them."""
    by: str | None = None
    """Column whose equal values stay together (a customer, a document). Equal texts and equal images always stay together."""
    near: bool = False
    """Keep near duplicates together as well (MinHash over character 3-grams)."""

    @model_validator(mode="after")
    def shares_leave_training_rows(self) -> Self:
        """Refuse shares that leave nothing to train on."""
        if self.valid + self.test >= 1:
            raise ValueError("valid and test together must leave rows for training: their sum must be below 1")
        return self


TruthColumn = Literal["answer", "label", "labels", "entities", "tags", "captions"]
ColumnName = Literal["id", "text", "tokens", "instruction", "system", "candidates", "messages", "history", "image", TruthColumn]


class Data(Section):
    """What to learn from."""

    train: Sources
    """One source or a list of them."""
    valid: Sources | None = None
    """A source of its own for choosing the checkpoint; otherwise ``split.valid`` of the training rows."""
    test: Sources | None = None
    """A source of its own for the final figures; otherwise ``split.test`` of the training rows."""
    split: Split = Split()
    shape: str | None = None
    """Name of the row shape where recognising it from the first rows is not wanted; the names stand in docs/data.md."""
    columns: dict[ColumnName, str] = Field(default_factory=dict)
    """Which column of the file is which field, e.g. ``{text: body, label: topic}``."""
    system: str | None = None
    """System message of every row; overrides a ``system`` column. Without either, the task's own wording is used."""
    limit: int | None = Field(None, ge=1)
    """Use only the first N rows of each source."""
    allow_dropped: float = Field(0.01, ge=0, le=1)
    """Share of rows that may be rejected before the run is stopped."""
    encoding: str | None = None
    """Text encoding of the files; found out where it is not given (UTF-8 with or without BOM, UTF-16 with BOM, GB18030)."""
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    """Delimiter of csv files; found out where it is not given."""


TrainedVision = Literal["frozen", "merger", "all"]


class LoraTuning(Section):
    """Train small low-rank matrices beside the frozen weights (Hu et al., 2021)."""

    kind: Literal["lora"] = "lora"
    r: int = Field(8, ge=1, le=512)
    """Rank of the adapter matrices. Higher learns more and costs memory."""
    lora_alpha: float = Field(32, gt=0)
    """Scale: the adapter's output is multiplied by ``lora_alpha / r``."""
    lora_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of the adapter's inputs that is zeroed while training."""
    target_modules: list[str] = Field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], min_length=1
    )
    """Names of the linear layers of the language model that get an adapter; a vision tower is never matched by these."""
    use_rslora: bool = False
    """Scale by ``lora_alpha / sqrt(r)`` instead (Kalajdzievski, 2023), for ranks of 64 and more."""
    vision: TrainedVision = "frozen"
    """What of a vision model's tower gets adapters too: nothing, the merger (its last layers), or all of it."""


class FullTuning(Section):
    """Train every weight of the language model."""

    kind: Literal["full"] = "full"
    vision: TrainedVision = "frozen"
    """What of a vision model's tower is trained too: nothing, the merger (its last layers), or all of it."""


Tuning = Annotated[LoraTuning | FullTuning, Field(discriminator="kind")]


class Model(Section):
    """What to start from."""

    path: str
    """Hub id (``Qwen/Qwen3-0.6B``), folder, ``.gguf`` file, run folder, or ``bundled:NAME``."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    tuning: Tuning = LoraTuning()
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Arithmetic; ``auto`` is bfloat16 where the device computes in it and float32 elsewhere. There, where memory is short, it keeps LoRA's
    frozen matrices in their file's 16 bits and widens them one at a time; ``float32`` always widens all at loading."""
    device: str = "auto"
    """``cuda``, ``cuda:1``, ``mps`` or ``cpu``; ``auto`` takes the first of them that is there."""
    trust_remote_code: bool = False
    """Run Python code that comes with the weights. Leave it off unless you read that code."""


class Images(Section):
    """How images become pixels: the same at training, evaluation, prediction and in the server. Proportions are kept but for ``size``."""

    min_pixels: int = Field(3136, ge=784)
    """Smaller images are enlarged to this many pixels (height times width)."""
    max_pixels: int = Field(589_824, ge=784, le=100_000_000)
    """Larger images are made smaller. 784 pixels are a token of Qwen2-VL and Qwen2.5-VL, 1024 of Qwen3-VL."""
    size: tuple[int, int] | None = None
    """One size for all, ``[height, width]`` in pixels, whatever their proportions; multiples of 28 (Qwen3-VL: 32)."""
    background: Literal["white", "black"] = "white"
    """What lies behind transparent images."""

    @model_validator(mode="after")
    def pixels_are_a_range(self) -> Self:
        """Refuse a range that holds nothing."""
        if self.min_pixels > self.max_pixels:
            raise ValueError("min_pixels must not be above max_pixels")
        return self


class Chat(Section):
    """How a conversation becomes tokens."""

    enable_thinking: bool = False
    """Thinking mode of models that have one (Qwen3). Off: the answer follows an empty think block, at training and answering alike."""
    images: Images = Images()


class Encode(Section):
    """How rows become training rows."""

    max_tokens: int = Field(1024, ge=16, le=131072)
    """Longest row. Longer ones are shortened in the user's text, never in the template or the answer."""
    keep: Literal["head", "tail", "head_tail"] = "head"
    """Which end of a text that is too long is kept."""
    packing: bool = True
    """Join rows to use every token of a batch. Joined rows never see each other: loss and gradients are those of single rows."""


FastName = Literal["answer_logits", "shared_prefix", "last_layer", "lora_linear", "fused_attention", "fused_mlp", "liger", "vision_store"]


class Train(Section):
    """The training loop."""

    num_train_epochs: float = Field(3, gt=0, le=1000)
    max_steps: int | None = Field(None, ge=1)
    """Stop after this many optimizer steps, whatever the epochs say."""
    learning_rate: float = Field(1e-4, gt=0, le=1)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    """Share of the steps in which the learning rate rises from 0."""
    weight_decay: float = Field(0.0, ge=0, le=1)
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    optim: Literal["adamw", "adafactor"] = "adamw"
    """``adafactor`` keeps averages per row and column where AdamW keeps two numbers per trained weight: for full tuning half the memory."""
    adam_beta2: float = Field(0.999, gt=0, lt=1)
    batch_tokens: int = Field(8192, ge=1)
    """About how many tokens one optimizer step sees; a step has at least one row."""
    batch_rows: int | None = Field(None, ge=1)
    """About how many rows one optimizer step sees, where that is reached before ``batch_tokens``."""
    micro_batch_tokens: int | None = Field(None, ge=1)
    """Tokens computed at once (never fewer than the longest row): less costs time, more costs memory. Chosen by memory when not given."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: a sixth more time on a CPU, a third elsewhere, for less memory. Done by itself where
    memory would not suffice."""
    logging_steps: int = Field(1, ge=1)
    eval_steps: int | None = Field(None, ge=1)
    """Steps between evaluations on validation rows; every epoch when not given."""
    save_total_limit: int = Field(3, ge=1)
    """Checkpoints that are kept besides the best."""
    early_stopping_patience: int | None = Field(None, ge=1)
    """Stop after this many evaluations without a better metric."""
    fast: Literal["all", "none"] | list[FastName] = "all"
    """Fast paths in use, each equal to the plain one: ``all`` that help on this device, ``none``, or a list of names."""


class Evaluate(Section):
    """How answers are got and scored."""

    select_by: str | None = None
    """Metric that chooses the best checkpoint on validation rows; the task's main metric when not given."""
    max_new_tokens: int = Field(256, ge=1, le=32768)
    batch_size: int = Field(64, ge=1, le=1024)
    """Answers generated at once, fewer where memory does not suffice; wide batches keep the processor busy while each token is read off."""
    n_valid: int = Field(64, ge=1)
    """Validation rows per evaluation during training: a fixed, seeded choice of them."""
    n_bootstrap: int = Field(2000, ge=100, le=100_000)
    """Resamples for the 95 % intervals."""
    constrained: bool = True
    """Let decoding produce only what the task allows (labels, entity types, the JSON schema)."""
    temperature: float = Field(0.0, ge=0, le=10)
    """How freely answers are drawn, with ``run.seed``; 0 takes the likeliest token each time (greedy)."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Draw from the likeliest tokens that together have this probability."""
    top_k: int = Field(0, ge=0)
    """Draw from this many likeliest tokens; 0 for all."""
    n_suspects: int = Field(200, ge=0, le=100_000)
    """Training rows that are searched for wrong answers (``suspects.jsonl``), in a tenth of training's time or ten seconds; 0 for none."""


class SwanlabTrack(Section):
    """SwanLab: curves, settings and predictions on a page; ``local`` needs no account and no network."""

    kind: Literal["swanlab"] = "swanlab"
    mode: Literal["local", "offline", "cloud"] = "local"
    project: str = "weitiao"
    experiment: str | None = None
    """Name on the page; the run's name when not given."""


class NoTrack(Section):
    """Only ``events.jsonl`` in the run folder."""

    kind: Literal["none"] = "none"


Track = Annotated[SwanlabTrack | NoTrack, Field(discriminator="kind")]


class AdapterExport(Section):
    """The PEFT adapter alone, with tokenizer and card."""

    kind: Literal["adapter"] = "adapter"


class MergedExport(Section):
    """Weights with the adapter merged in, as an ordinary Hugging Face folder."""

    kind: Literal["merged"] = "merged"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Of the files; ``auto`` is that of the base's own files. Merging itself is done in float32.
    For ``gguf`` and ``ollama``: ``f16`` or ``q8_0``; for ``openvino``: ``float32``, ``float16`` or ``int8``."""


class GgufExport(Section):
    """One GGUF file, for llama.cpp and the programs around it."""

    kind: Literal["gguf"] = "gguf"
    dtype: Literal["f16", "q8_0"] = "q8_0"
    """Of the matrices; ``q8_0`` is half as large as ``f16``."""


class OllamaExport(Section):
    """A GGUF file with its Modelfile, for ``ollama create``."""

    kind: Literal["ollama"] = "ollama"
    dtype: Literal["f16", "q8_0"] = "q8_0"


class OpenvinoExport(Section):
    """OpenVINO's format, for Intel and other x86 CPUs. Needs optimum-intel in an environment of its own; says how when it is absent."""

    kind: Literal["openvino"] = "openvino"
    dtype: Literal["float32", "float16", "int8"] = "int8"


Export = Annotated[AdapterExport | MergedExport | GgufExport | OllamaExport | OpenvinoExport, Field(discriminator="kind")]


class Run(Section):
    """Where the run lies and what makes it repeatable."""

    path: str | None = None
    """The run folder; ``runs/NAME-OF-THE-RECIPE`` when not given."""
    seed: int = Field(42, ge=0, le=2**31 - 1)


class Recipe(Section):
    """Everything that a run needs, valid for every verb."""

    task: TaskSection
    data: Data
    model: Model
    chat: Chat = Chat()
    encode: Encode = Encode()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    track: Track = SwanlabTrack()
    export: list[Export] = Field(default_factory=lambda: list[Export]([MergedExport()]))
    run: Run = Run()
