"""weitiao: a person's own data in, a small private Qwen model out, with proof on held-out rows that it is better.

Start reading at ``weitiao.pipeline.run_recipe``. Importing this package loads nothing heavy.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
