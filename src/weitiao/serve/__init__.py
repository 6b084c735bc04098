"""serve: a loaded run in, an OpenAI-compatible HTTP server out.

request -> gate (key, size, time) -> routes (``app.py``) -> queue -> the model's one thread (``worker.py``) -> answer, whole or streamed.
``limits.py`` holds what is refused, ``schemas.py`` and ``replies.py`` what bodies look like, ``vllm.py`` the command line of a user's own
vLLM. A new route is a method of ``Desk`` and a line in its ``router``. Knows nothing of run folders, training or scores; the run is
handed to it loaded. The server's own libraries are imported when it is started, and not for vLLM's.
"""

from weitiao.serve.keys import Keys, read_key_texts, read_keys
from weitiao.serve.limits import Limits
from weitiao.serve.served import Served
from weitiao.serve.server import address_of, open_socket, run_server
from weitiao.serve.vllm import VllmRun, interpreter, start_vllm, vllm_command

__all__ = [
    "Keys",
    "Limits",
    "Served",
    "VllmRun",
    "address_of",
    "interpreter",
    "open_socket",
    "read_key_texts",
    "read_keys",
    "run_server",
    "start_vllm",
    "vllm_command",
]
