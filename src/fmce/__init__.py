"""fmce: is each functional module of a perception network mature? Measure it, train with it, compress by matching.

`fmce/__init__.pyi` lists the public names; each loads on first use, so that `import fmce` needs neither
torch nor matplotlib.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = [*_names, "__version__"]
