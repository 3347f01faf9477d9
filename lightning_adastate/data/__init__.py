"""Data: prompts, videos with captions, and trajectories of a teacher."""

import lazy_loader

# Names of files and prompts are wanted where nothing trains; the data sets among them need Lightning, so each of the
# names in __init__.pyi is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
