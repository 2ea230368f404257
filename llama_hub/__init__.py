"""llama-hub: from a granted Llama 2 licence to a verified endpoint anywhere.

The public Python API is imported from the folder that owns it, for example
``from llama_hub.hub.catalog import Model``; this package itself exports only
the version, so that importing it costs nothing.
"""

from llama_hub._version import __version__

__all__ = ["__version__"]
