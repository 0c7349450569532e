"""kuiperbelt for Django: an asynchronous protocol proxy for prefork backends."""

__version__ = "0.1.0"
