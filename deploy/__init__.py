"""Deployments: spec, sizing, plan, apply, journal, attestation.

``llama_hub.deploy(spec)`` is the function of the public API (``llama_hub.api.deploy``).
"""

import sys

from llama_hub.callable_package import CallablePackage

sys.modules[__name__].__class__ = CallablePackage
