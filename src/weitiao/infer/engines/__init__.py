"""Other engines behind ``seams.Engine``: a server by its address (``http.py``), OpenVINO in an environment of its own (``openvino.py``).

Both only generate; what follows from that is in ``generating.py``.
"""
