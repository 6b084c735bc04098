"""Answers prompts with an OpenVINO folder, using openvino-genai and nothing of this project; run as a script in a fresh process.

python reload_openvino.py FOLDER REQUEST.json RESULT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(folder: str, request: str, result: str) -> None:
    """Read a request, answer it greedily in float32, write the result."""
    import numpy as np
    import openvino
    import openvino_genai

    wanted = json.loads(Path(request).read_text(encoding="utf-8"))
    pipeline: Any = openvino_genai.LLMPipeline(folder, "CPU", INFERENCE_PRECISION_HINT="f32", DYNAMIC_QUANTIZATION_GROUP_SIZE="0")
    config = pipeline.get_generation_config()
    config.max_new_tokens, config.do_sample = wanted["n_new"], False
    answers = []
    for ids in wanted["prompts"]:
        row = np.array([ids], dtype=np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(row), openvino.Tensor(np.ones_like(row)))
        answers.append(list(pipeline.generate(inputs, config).tokens[0]))
    tokenizer = pipeline.get_tokenizer()
    texts = [
        tokenizer.apply_chat_template(turns, add_generation_prompt=True) if turns is not None else None for turns in wanted["messages"]
    ]
    content = {"tokens": answers, "texts": texts, "stop_ids": sorted(config.stop_token_ids | {config.eos_token_id})}
    Path(result).write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
