"""The model card of the tiny model, with the figures of the training that made it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---
# tiny-vl

A Qwen2-VL model of 5.4 million parameters, trained from nothing on made-up pictures. It exists so that training, answering and reporting
on pictures can be shown and tested where no model hub can be reached. It is no use as a reader of formulas or photos by itself.

- **Architecture**: `Qwen2VLForConditionalGeneration`; vision tower of 4 blocks, width 160, patches of 14 pixels merged 2 x 2;
  language model of 5 layers, width 224, 4 heads; embeddings tied; bfloat16, 11 MB.
- **Tokenizer**: byte-level BPE of about a thousand entries with Qwen's special tokens; any text survives the way
  through it. Its merges come from LaTeX commands, the scenes' words and the two prompts, never from formulas.
- **Chat template**: Qwen2-VL's without the default system message.
- **Prompts it knows**: `你是一个LaText OCR助手,目标是读取用户输入的照片，转换成LaTex公式。` and `COCO Yes:`.

## Data

Nobody's: formulas of a seeded grammar (`weitiao.demo.formulas`), laid out by matplotlib's mathtext in Computer Modern at 19 to 24 pixels,
without noise or turn; and scenes of one or two coloured shapes with a sentence (`weitiao.demo.scenes`). Every training picture is new.

## Training

    python -m scripts.tiny_vl.train FOLDER --steps {steps} --ending {ending}

{n_scenes_and_formulas:,} pictures, each seen once, in {minutes:.0f} minutes of one core
(the last call alone, where it was called several times). AdamW, learning rate {rate}, falling to nothing over the last {ending}
steps; the first {tower} steps train the vision tower alone.

## How good it is

Answers that are right to the letter, greedily, on held-out pictures of the same kind:

| Pictures | Right |
|---|---|
{rows}

In other fonts, with noise, turned, or longer, formulas are read much worse: that is what tuning is to show.
"""


def write_card(folder: Path, figures: Mapping[str, float], settings: Mapping[str, float]) -> None:
    """Write ``README.md`` beside the weights.

    Args:
        folder: of the model.
        figures: share of right answers by kind of picture.
        settings: ``steps``, ``ending``, ``rate``, ``tower``, ``minutes`` and ``n_scenes_and_formulas``.
    """
    rows = "\n".join(f"| {name} | {100 * share:.0f} % |" for name, share in figures.items())
    (folder / "README.md").write_text(CARD.format(rows=rows, **settings), "utf-8")
