"""W&B's server: whether there is a key for it, and whether it answers."""

from __future__ import annotations

import netrc
import os
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from esort.one_line import one_line

__all__ = ["has_key", "reach_server"]


def has_key() -> bool:
    """Whether W&B would find an API key without asking for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    import wandb

    # Keys of the hosted service may still stand under its first name.
    hosts = (urlsplit(wandb.setup().settings.base_url).netloc, "api.wandb.ai")
    try:
        known = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return False
    return any(known.authenticators(host) for host in hosts)


def reach_server(timeout_s: float = 10.0) -> None:
    """Ask W&B's server whether it is there; any answer will do.

    W&B's client tries again for minutes, and may not end after that: who cannot go on without the server
    asks first.

    Parameters
    ----------
    timeout_s : float

    Raises
    ------
    ValueError
        If nothing answers; named with the address.
    """
    import wandb

    address = wandb.setup().settings.base_url
    try:
        urlopen(address, timeout=timeout_s).close()
    except HTTPError:
        return  # a refusal is an answer
    except OSError as error:
        raise ValueError(f"W&B's server {address} does not answer: {one_line(error)}") from None
