"""data: files, folders and hub data sets in; checked, split samples and an audit of them out.

read -> recognise -> convert -> check -> split, each in its own file. A new file type goes into ``READERS`` (files.py), a new row shape
into ``SHAPES`` (shapes.py). Knows nothing of tokens, templates or models; what a kind of work is, it asks the ``Task``.
"""

from weitiao.data.given import read_rows
from weitiao.data.load import load_samples
from weitiao.data.other import load_file
from weitiao.data.propose import propose_recipe
from weitiao.data.stream import count_rows, stream_file

__all__ = ["count_rows", "load_file", "load_samples", "propose_recipe", "read_rows", "stream_file"]
