"""Metrics of streams."""

import lazy_loader

# Measuring a video needs torch alone; averaging over ranks needs torchmetrics, which takes as long to import as
# torch. So each of the names in __init__.pyi is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
