"""Generation of typed clients from the AsyncAPI document of an app: `python_client`."""

from websuckets.client_generation.document import Contract, read_document
from websuckets.client_generation.python import python_client
from websuckets.client_generation.source import Source
from websuckets.client_generation.typescript import typescript_client

__all__ = ["Contract", "Source", "python_client", "read_document", "typescript_client"]
