"""Settings of the gateway; defaults and their reasons are in config/genesis.toml.

Never here: defaults, reading of files.
"""

from typing import Annotated, TypeAlias

import msgspec

Port: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]
Seconds: TypeAlias = Annotated[float, msgspec.Meta(gt=0)]


class GatewaySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where to listen, and what one client may take."""

    host: str
    port: Port
    api_port: Port  # pages served from there may connect
    clients_max: Count
    message_bytes_max: Count
    topics_max: Count
    requests_per_s: Seconds
    requests_burst: Count
    requests_open_max: Count
    queue_bytes_max: Count
    stall_s: Seconds
    auth_s: Seconds
