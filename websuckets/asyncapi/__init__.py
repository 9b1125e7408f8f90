"""AsyncAPI document of an app, and its service beside the app's connections."""

from websuckets.asyncapi.docs import Docs

__all__ = ["Docs"]
