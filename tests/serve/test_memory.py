"""Ten thousand requests of every kind leave the server about as large as four thousand did.

By then the caches that have a bound are nearly full: 256 compiled schemas (46 MB here), oneDNN's 1,024 kernels, one per shape that was met
(60 MB), the tokenizer's 10,000 words. Objects of Python are as many after 9,000 requests as after 1,000, within a hundredth.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.serve.servers import Server
from tests.tiny import sentences

N_REQUESTS, N_WARM, N_CLIENTS = 10_000, 4_000, 8
ALLOWED_BYTES = 40_000_000


@pytest.mark.load
@pytest.mark.timeout(7200)
def test_memory_is_flat_over_ten_thousand_requests(server: Server):
    texts = sentences(500, seed=5)

    def ask(number: int) -> int:
        text = f"{number} {texts[number % len(texts)]}"
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 1 + number % 4, "stream": number % 3 == 0}
        schema = {"type": "object", "properties": {f"field_{number}": {"type": "boolean"}}}
        if number % 10 == 1:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
        if number % 10 == 2:
            return requests.post(server.url + "/v1/tasks/predict", json={"rows": [{"input": text}, {"input": ""}]}, timeout=300).status_code
        if number % 100 == 3:
            return 200 + requests.post(server.url + "/v1/chat/completions", data=b"{", timeout=300).status_code - 415
        return requests.post(server.url + "/v1/chat/completions", json=body, timeout=300).status_code

    with ThreadPoolExecutor(N_CLIENTS) as clients:
        assert set(clients.map(ask, range(N_WARM))) == {200}
        warm = server.memory_bytes()
        assert set(clients.map(ask, range(N_WARM, N_REQUESTS))) == {200}
    grown = server.memory_bytes() - warm
    print(f"after {N_WARM:,} requests {warm / 1e6:.1f} MB, after {N_REQUESTS:,} requests {grown / 1e6:+.1f} MB")
    assert grown < ALLOWED_BYTES
    assert server.get("/health").json() == {"status": "ok", "waiting": 0, "running": 0}
