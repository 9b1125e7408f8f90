"""Incidents: numbers under which the log has the details that clients are not told."""

import logging
import secrets

__all__ = ["log_incident"]

logger: logging.Logger = logging.getLogger("websuckets")


def log_incident(what: str, error: BaseException, incident: str | None = None) -> str:
    """Log that ``what`` failed, under a new incident or one that is logged already."""
    incident = incident or secrets.token_hex(8)
    logger.error("%s failed, incident %s", what, incident, exc_info=error)
    return incident
