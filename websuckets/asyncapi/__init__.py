"""AsyncAPI document of an app, and its service beside the app's connections."""

from websuckets.asyncapi.document import asyncapi_document

__all__ = ["asyncapi_document"]
