"""What must not get in, and what must not get out. All of it is off unless ``serve.filters`` asks for it.

filters     all of a gateway's, put together
config      which filter does what, on which side
text        one text on its way through the filters, in any pieces
personal, unsafe, injection   the finders
calls       the same inside JSON
output      the stage of an answer; logprobs: what they may show beside it
prompts     the calls on their way in

A filter that fails lets nothing through.
"""

from tuneloop.serve.filters.config import FiltersConfig

__all__ = ["FiltersConfig"]
