"""Errors for HTTP answers without success: wrong credentials, a busy service, or a useless request."""

from collections.abc import Mapping

from urllib3.util import Retry

from runners.vision_api.services.response import RefusedError, ServiceError, TryAgainError


def error_of_status(
    status: int, reason: str, headers: Mapping[str, str] | None = None
) -> ServiceError | TryAgainError:
    """Return the error that an HTTP status means.

    It is RefusedError for credentials that are not accepted, TryAgainError for a service that is busy or
    broken, and ServiceError for anything else.
    """
    if status in (401, 403):
        return RefusedError(f"credentials refused: {reason}")
    if status in (408, 429) or status >= 500:
        return TryAgainError(reason, retry_after(headers))
    return ServiceError(reason)


def retry_after(headers: Mapping[str, str] | None) -> float | None:
    """Return the seconds of a Retry-After header (a number or a date), or None if it cannot be read."""
    value = next((v for k, v in (headers or {}).items() if k.lower() == "retry-after"), None)
    if value is None:
        return None
    try:
        return max(0.0, float(Retry().parse_retry_after(str(value))))
    except Exception:  # neither a number nor a date: urllib3 raises an error of its own
        return None
