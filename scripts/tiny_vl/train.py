"""Train the tiny vision model from nothing: ``python -m scripts.tiny_vl.train FOLDER --steps 7200 --ending 1200``.

Killed and called again, it goes on where the last checkpoint stood. Over the last steps, the ending, the learning rate falls to nothing; an
ending never changes the checkpoint, so that the same folder can be trained further with more ``--steps`` after the model was written.
Two losses: the answer's tokens, and, only while training, which sign stands in which patch (helping heads on the vision tower that are
thrown away), without which a tower as small as this learns nothing for a long time.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TextIO

import torch
from scripts.tiny_vl.batches import Batch, Encoder
from scripts.tiny_vl.card import write_card
from scripts.tiny_vl.examples import N_CLASSES, Example, Terms, scene_example
from scripts.tiny_vl.network import build_config, build_tokenizer, save

from weitiao.demo.formulas import make_formulas
from weitiao.demo.typeset import lay_out

PEAK_RATE = 1e-3
BATCH, TOWER_BATCH = 16, 32
TOWER_STEPS = 1200
"""Steps at the start in which only the vision tower learns, with the helping heads: as long as it sees nothing, there is nothing to say."""
N_TERMS = {1: 200, 3: 500}
HELP = 0.5
"""Weight of the helping loss."""
SAVE_STEPS, TEST_STEPS = 40, 400


def levels(step: int) -> tuple[list[int], list[float]]:
    """What is trained when: 0 means a scene, 1 to 3 the level of a formula."""
    if step < TOWER_STEPS:
        return [0, 3], [0.1, 0.9]
    if step < TOWER_STEPS + 600:
        return [0, 1, 2], [0.15, 0.35, 0.5]
    return [0, 1, 2, 3], [0.15, 0.1, 0.35, 0.4]


def rate(step: int, ending: tuple[int, int] | None) -> float:
    """The learning rate of a step: up, level, and down to nothing between the two steps of ``ending``."""
    if ending is not None:
        return PEAK_RATE * max(0.0, (ending[1] - step) / (ending[1] - ending[0]))
    return PEAK_RATE * min(1.0, (step + 1) / 60)


def seen_marks(seen: Any, helpers: torch.nn.ModuleList, batch: Batch) -> torch.Tensor:
    """The loss of the helping heads per mark: one looks at patches, one at what the merger hands to the language model."""
    losses = []
    merged = batch.marks.view(-1, 4, N_CLASSES).amax(1)
    for helper, features, marks in zip(helpers, (seen.last_hidden_state, seen.pooler_output), (batch.marks, merged), strict=True):
        total = torch.nn.functional.binary_cross_entropy_with_logits(helper(features), marks, reduction="sum")
        losses.append(total / marks.sum())
    return sum(losses[1:], losses[0]) / len(losses)


def said_answers(network: Any, seen: Any, batch: Batch) -> torch.Tensor:
    """The loss of the answers per token."""
    embeds = network.get_input_embeddings()(batch.input_ids)
    embeds = embeds.masked_scatter(batch.is_image[..., None].bool(), seen.pooler_output)
    positions, _ = network.model.get_rope_index(batch.input_ids, batch.is_image, batch.grids, attention_mask=batch.attention_mask)
    # Padding stands on the right and attention is causal: nothing that counts ever sees it, and no mask is the quick way.
    hidden = network.model.language_model(inputs_embeds=embeds, position_ids=positions, use_cache=False).last_hidden_state
    wanted = batch.labels[:, 1:]
    trained = wanted != -100
    return torch.nn.functional.cross_entropy(network.lm_head(hidden[:, :-1][trained]), wanted[trained])


def held_out(terms: Terms) -> dict[str, list[Example]]:
    """Formulas that mathtext lays out as a whole, in fixed sizes, and scenes; none of them is trained on but by chance."""
    sets: dict[str, list[Example]] = {}
    for level in (1, 2, 3):
        rng = random.Random(level)
        whole = [(latex, lay_out(latex)) for latex in make_formulas(40, 77, level)]
        terms_formula, pairs = terms.formula, iter(whole)
        terms.formula = lambda *_, pairs=pairs: next(pairs)  # type: ignore[method-assign]
        sets[f"formulas {level}"] = [terms.example(rng, level) for _ in whole]
        terms.formula = terms_formula  # type: ignore[method-assign]
    rng = random.Random(5)
    sets["scenes"] = [scene_example(rng, len(terms.classes)) for _ in range(40)]
    return sets


@torch.inference_mode()
def exact(network: Any, encoder: Encoder, examples: list[Example]) -> float:
    """Share of examples that are answered to the letter, greedily."""
    network.eval()
    right = 0
    for start in range(0, len(examples), 20):
        chosen = examples[start : start + 20]
        batch = encoder.batch(chosen, with_answers=False)
        out = network.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            mm_token_type_ids=batch.is_image,
            pixel_values=batch.pixels,
            image_grid_thw=batch.grids,
            max_new_tokens=48,
            do_sample=False,
            eos_token_id=encoder.end[0],
            pad_token_id=encoder.pad,
        )
        said = encoder.tokenizer.batch_decode(out[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
        right += sum(text == example.answer for text, example in zip(said, chosen, strict=True))
    network.train()
    return right / len(examples)


Tests = Callable[[], dict[str, list[Example]]]


class Training:
    """Everything that a checkpoint holds."""

    def __init__(self, folder: Path) -> None:
        """Build the network, or read where training stood."""
        from transformers import Qwen2VLForConditionalGeneration

        self.file = folder / "checkpoint.pt"
        self.tokenizer = build_tokenizer()
        self.encoder = Encoder(self.tokenizer)
        torch.manual_seed(0)
        self.network = Qwen2VLForConditionalGeneration(build_config(self.tokenizer)).train()
        widths = self.network.config.vision_config.embed_dim, self.network.config.text_config.hidden_size
        self.helpers = torch.nn.ModuleList([torch.nn.Linear(width, N_CLASSES) for width in widths])
        for helper in self.helpers:
            torch.nn.init.constant_(helper.bias, -6.0)  # most signs are not in a patch
        self.parts = torch.nn.ModuleList([self.network, self.helpers])
        matrices = [p for p in self.parts.parameters() if p.ndim > 1]
        others = [p for p in self.parts.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.95), fused=True)
        self.step = 0
        if self.file.is_file():
            state = torch.load(self.file)
            self.parts.load_state_dict(state["parts"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]

    def keep(self) -> None:
        """Write a checkpoint, whole or not at all."""
        state = {"parts": self.parts.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
        torch.save(state, self.file.with_suffix(".new"))
        self.file.with_suffix(".new").replace(self.file)

    def batches(self, terms: Terms) -> list[Batch]:
        """Four batches of examples of about the same length each, seeded by the step."""
        rng = random.Random(f"batches:{self.step}")
        size = TOWER_BATCH if self.step < TOWER_STEPS else BATCH
        kinds = rng.choices(*levels(self.step), k=4 * size)
        examples = [terms.example(rng, kind) if kind else scene_example(rng, len(terms.classes)) for kind in kinds]
        examples.sort(key=self.encoder.length)
        made = [self.encoder.batch(examples[i : i + size]) for i in range(0, len(examples), size)]
        rng.shuffle(made)
        return made

    def learn(self, batch: Batch, ending: tuple[int, int] | None = None) -> tuple[float, float]:
        """One step of the optimizer."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.step, ending)
        seen = self.network.model.visual(batch.pixels, grid_thw=batch.grids)
        marks = seen_marks(seen, self.helpers, batch)
        answer = said_answers(self.network, seen, batch) if self.step >= TOWER_STEPS else torch.zeros(())
        self.optimizer.zero_grad()
        (answer + HELP * marks).backward()
        torch.nn.utils.clip_grad_norm_(self.parts.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return answer.item(), marks.item()


def main() -> None:
    """Train up to the wanted step, then write the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=7200, help="in all, earlier calls included")
    parser.add_argument("--ending", type=int, default=1200, help="of them, steps over which the learning rate falls to nothing")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    terms = Terms(arguments.folder / "terms.pickle", N_TERMS)
    training, tests = Training(arguments.folder), cache(lambda: held_out(terms))
    ending = max(training.step, arguments.steps - arguments.ending), arguments.steps
    with (arguments.folder / "log.jsonl").open("a") as log:
        while training.step < arguments.steps:
            _train_some(training, terms, tests, ending, log)
    save(training.network, training.tokenizer, arguments.folder / "tiny-vl")
    figures = {name: exact(training.network, training.encoder, examples) for name, examples in tests().items()}
    towers = min(TOWER_STEPS, arguments.steps)
    settings = {
        "steps": arguments.steps,
        "ending": arguments.ending,
        "rate": PEAK_RATE,
        "tower": towers,
        "minutes": time.process_time() / 60,
        "n_scenes_and_formulas": towers * TOWER_BATCH + (arguments.steps - towers) * BATCH,
    }
    write_card(arguments.folder / "tiny-vl", figures, settings)


def _train_some(training: Training, terms: Terms, tests: Tests, ending: tuple[int, int], log: TextIO) -> None:
    """Four batches, and what is due after them: a line of the log, a test, a checkpoint."""
    before, is_ending = training.step, training.step >= ending[0]
    results = [training.learn(batch, ending if is_ending else None) for batch in training.batches(terms)]
    answer, marks = (sum(values) / len(values) for values in zip(*results, strict=True))
    seconds = round(time.process_time())
    row: dict[str, Any] = {"step": training.step, "loss": round(answer, 4), "marks": round(marks, 4), "processor_seconds": seconds}
    if training.step // TEST_STEPS > before // TEST_STEPS and training.step > TOWER_STEPS:
        row |= {name: exact(training.network, training.encoder, examples) for name, examples in tests().items()}
    if training.step // SAVE_STEPS > before // SAVE_STEPS and not is_ending:
        training.keep()
    log.write(json.dumps(row) + "\n")
    log.flush()


if __name__ == "__main__":
    main()
