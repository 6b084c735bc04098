"""Answers token rows with openvino-genai; run as a script by the Python that has it, with nothing of this project.

python openvino_worker.py FOLDER BATCH_ROWS: a line of JSON per request on stdin, a line of JSON per answer on stdout.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any


def configured(genai: Any, row: dict[str, Any], request: dict[str, Any]) -> Any:
    """The generation config of a row: greedy, ended by the run's own stop tokens."""
    config = genai.GenerationConfig()
    config.max_new_tokens = request["max_new_tokens"]
    config.do_sample = False
    config.eos_token_id = request["stops"][0]
    config.stop_token_ids = set(request["stops"])
    if row.get("json_schema") is not None:
        config.structured_output_config = genai.StructuredOutputConfig(json_schema=json.dumps(row["json_schema"]))
    elif row.get("choices") is not None:
        choices = "|".join(re.escape(choice) for choice in row["choices"])
        config.structured_output_config = genai.StructuredOutputConfig(regex=f"({choices})")
    elif row.get("regex") is not None:
        config.structured_output_config = genai.StructuredOutputConfig(regex=row["regex"])
    return config


def main(folder: str, batch_rows: str) -> None:
    """Load the model, then answer until stdin ends."""
    import numpy as np
    import openvino
    import openvino_genai

    answers = sys.stdout
    sys.stdout = sys.stderr  # What libraries print must not be taken for answers.
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.max_num_seqs = int(batch_rows)
    scheduler.cache_size = 2
    scheduler.enable_prefix_caching = True
    # bfloat16 and the 8-bit cache are quicker where a CPU has them, but answer otherwise.
    precise = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    pipeline = openvino_genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", precise)
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        request = json.loads(line)
        for start in range(0, len(request["rows"]), int(batch_rows)):
            rows = request["rows"][start : start + int(batch_rows)]
            prompts = [openvino.Tensor(np.array([row["ids"]], dtype=np.int64)) for row in rows]
            results = pipeline.generate(prompts, [configured(openvino_genai, row, request) for row in rows])
            for row, result in zip(rows, results, strict=True):
                answers.write(json.dumps({"index": row["index"], "ids": list(result.m_generation_ids[0])}) + "\n")
            answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
