"""chat: messages in, tokens out, and back. The only room where roles become tokens, for training and for answering.

Images become pixels here too (``images.py``), by the recipe's ``chat.images``; sizes and tokens are known from a file's header alone.
``templates/`` holds training copies of chat templates whose stock form renders an earlier answer differently once a turn follows it.
Knows nothing of tasks, batches, labels or models.
"""

from weitiao.chat.images import count_image_tokens
from weitiao.chat.render import make_renderer
from weitiao.chat.template import chat_template
from weitiao.chat.vision import TowerVision, as_encoder_outputs, make_vision

__all__ = ["TowerVision", "as_encoder_outputs", "chat_template", "count_image_tokens", "make_renderer", "make_vision"]
