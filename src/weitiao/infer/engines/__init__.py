"""Other engines behind ``seams.Engine``: a server by its address (``http.py``), OpenVINO in an environment of its own (``openvino.py``)."""
