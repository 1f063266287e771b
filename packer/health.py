"""Whether a listener is well."""

from __future__ import annotations

import urllib.error
import urllib.request


def ailment(url: str, timeout: float) -> str:
    """What is wrong with the one that answers at `url`, within `timeout` seconds; empty if nothing, or if none does."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        direct.open(url, timeout=timeout).close()
    except urllib.error.HTTPError as error:
        return f"it answers {error.code}"
    except urllib.error.URLError as error:
        return "" if isinstance(error.reason, ConnectionRefusedError) else str(error.reason)
    except OSError as error:
        return str(error) or type(error).__name__
    return ""
