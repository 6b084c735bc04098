"""export: a checkpoint in, folders for other programs out, each read back in a fresh process before it counts as done.

``merged.py`` and ``adapter.py`` write weights, ``converted.py`` brings them into other engines' formats (``gguf.py``, ``ollama.py``),
``check.py`` compares what they answer with what the run's model answers, ``card.py`` describes them.
A new kind of artifact goes into ``MAKERS`` (export.py). Knows nothing of training, metrics or how a run got its figures.
"""

from weitiao.export.export import export_checkpoint

__all__ = ["export_checkpoint"]
