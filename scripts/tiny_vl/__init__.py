"""The tiny vision model that weitiao ships: how it was made. ``python -m scripts.tiny_vl.train FOLDER`` makes it again."""
