"""OpenVINO GenAI behind ``seams.Engine``: continuous batching on x86 CPUs, in a process of the environment that holds it.

Prompts are rendered here and handed over as tokens, so that its template and tokenizer do not matter.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from weitiao.errors import EngineError
from weitiao.infer.batches import render_prompts
from weitiao.infer.engines.generating import GeneratingEngine
from weitiao.seams import Answer, Constraint, Renderer, Sample, Sampling


class OpenvinoEngine(GeneratingEngine):
    """Asks a running worker; one call at a time."""

    name = "the openvino engine"

    def __init__(
        self, process: subprocess.Popen[str], said: IO[str], renderer: Renderer, max_prompt_tokens: int | None, folder: Path
    ) -> None:
        """Keep the parts; see ``openvino_engine``."""
        self._process = process
        self._said = said
        self._renderer = renderer
        self._max_prompt_tokens = max_prompt_tokens
        self._folder = folder

    def generate(
        self,
        samples: Sequence[Sample],
        sampling: Sampling,
        constraint: Callable[[Sample], Constraint | None] | None = None,
    ) -> Iterator[tuple[int, Answer]]:
        """Generate an answer to each sample's prompt, greedily.

        Args:
            samples: conversations of text; an answer at their end is left out.
            sampling: a temperature is refused.
            constraint: a JSON schema, a choice of texts, or a pattern.

        Yields:
            ``(index, answer)`` batch by batch, longest prompts first.

        Raises:
            RowError: a prompt cannot be shortened enough.
            EngineError: sampling is asked for, a prompt holds an image, or the worker stopped.
        """
        if sampling.temperature > 0:
            raise EngineError("the openvino engine answers greedily", hint="use --engine embedded for sampling")
        prompts = sorted(render_prompts(samples, self._renderer, self._max_prompt_tokens), key=lambda prompt: -len(prompt.token_ids))
        if not prompts:
            return
        rows: list[dict[str, Any]] = []
        for prompt in prompts:
            asked = (constraint(prompt.sample) if constraint else None) or Constraint()
            choices = list(asked.choices) if asked.choices is not None else None
            form = {"json_schema": asked.json_schema, "choices": choices, "regex": asked.regex}
            rows.append({"index": prompt.index, "ids": prompt.token_ids, **form})
        lengths = {prompt.index: len(prompt.token_ids) for prompt in prompts}
        stops = list(self._renderer.stop_token_ids)
        self._send({"max_new_tokens": sampling.max_new_tokens, "stops": stops, "rows": rows})
        for _ in rows:
            found = json.loads(self._receive())
            ids = found["ids"]
            is_cut = len(ids) >= sampling.max_new_tokens and ids[-1] not in stops
            text = self._renderer.decode(ids)
            yield found["index"], Answer(text, lengths[found["index"]], len(ids), "length" if is_cut else "stop")

    def _send(self, request: dict[str, Any]) -> None:
        try:
            stdin = _pipe(self._process.stdin)
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
        except OSError as error:
            raise self._stopped() from error

    def _receive(self) -> str:
        line = _pipe(self._process.stdout).readline()
        if not line:
            raise self._stopped()
        return line

    def _stopped(self) -> EngineError:
        return EngineError("openvino-genai stopped", where=str(self._folder), hint=_last_lines(self._said))


@contextmanager
def openvino_engine(
    python: Path, folder: Path, renderer: Renderer, *, batch_size: int, max_prompt_tokens: int | None
) -> Iterator[OpenvinoEngine]:
    """Start openvino-genai in a process of its own and stop it afterwards.

    Args:
        python: the interpreter that has it.
        folder: what ``weitiao export RUN --kind openvino`` wrote.
        renderer: the run's.
        batch_size: most rows that are answered at once, >= 1.
        max_prompt_tokens: longest prompt; the user's own text is shortened to fit.

    Yields:
        The engine.

    Raises:
        EngineError: it does not start.
    """
    command = [str(python), "-P", str(Path(__file__).with_name("openvino_worker.py")), str(folder), str(batch_size)]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True)
        except OSError as error:
            raise EngineError("there is no such interpreter", where=str(python), hint="see docs/predict.md, openvino") from error
        with process:
            try:
                if _pipe(process.stdout).readline() != "ready\n":
                    raise EngineError("openvino-genai cannot load the model", where=str(folder), hint=_last_lines(said))
                yield OpenvinoEngine(process, said, renderer, max_prompt_tokens, folder)
            finally:
                process.kill()


def _last_lines(said: IO[str]) -> str:
    said.seek(0)
    return "\n".join(said.read().strip().splitlines()[-3:])


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
