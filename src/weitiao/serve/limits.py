"""What a server takes on, and what it refuses; the numbers behind every 4xx and 503."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one server; every one is an option of ``weitiao serve``."""

    max_prompt_tokens: int = 8192
    """Longest prompt of a chat request, images included. Rows of the task are shortened as in training instead."""
    max_new_tokens: int = 1024
    """Most tokens that a request may ask for."""
    max_rows: int = 256
    """Rows of one request to ``/v1/tasks/predict``."""
    max_images: int = 8
    """Images of one chat request or one row."""
    max_pixels: int = 20_000_000
    """Pixels of one image as it is sent."""
    max_body_bytes: int = 20_000_000
    """Size of a request's body."""
    max_waiting: int = 512
    """Prompts that may wait for a place in the batch."""
    max_seconds: float = 300.0
    """From the arrival of a request to the last byte of its answer."""
    max_upload_seconds: float = 30.0
    """For a request's body to arrive."""
