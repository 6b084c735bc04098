"""chat: messages in, tokens out, and back. The only room where roles become tokens, for training and for answering.

``templates/`` holds training copies of chat templates whose stock form renders an earlier answer differently once a turn follows it.
Knows nothing of tasks, batches, labels or models.
"""

from weitiao.chat.render import make_renderer
from weitiao.chat.template import chat_template

__all__ = ["chat_template", "make_renderer"]
