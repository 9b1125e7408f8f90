"""Incidents: numbers under which the log has the details that clients are not told."""

import logging
import secrets

from websuckets.runtime.tracebacks import begun_at_the_program

__all__ = ["log_incident"]

logger: logging.Logger = logging.getLogger("websuckets")


def log_incident(what: str, error: BaseException, incident: str | None = None) -> str:
    """Log that ``what`` failed, under a new incident or one that is logged already.

    The traceback begins where code of the program began.
    """
    incident = incident or secrets.token_hex(8)
    traceback = begun_at_the_program(error.__traceback__)
    exc_info = (type(error), error, traceback)
    logger.error("%s failed, incident %s", what, incident, exc_info=exc_info)
    return incident
