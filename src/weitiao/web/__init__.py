"""web: two functions that answer in, a page in the browser out, where base and tuned model stand side by side.

``views.py`` draws an answer in the way of its kind of work, ``page.py`` is the page. Nothing on it comes from another machine.
Knows nothing of models, runs or files; it is handed functions that answer.
"""

from weitiao.web.page import Answering, open_page
from weitiao.web.views import Shown

__all__ = ["Answering", "Shown", "open_page"]
