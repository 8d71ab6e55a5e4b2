"""Settings of the api node; defaults and their reasons are in config/genesis.toml.

Never here: defaults, reading of files.
"""

from typing import Annotated, TypeAlias

import msgspec

Port: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class ApiSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where to listen, which names to answer to, how much to take."""

    host: str
    port: Port
    ws_port: Port  # the dashboard connects there
    hosts: tuple[str, ...]  # names the Host header may hold, without port
    body_bytes_max: Annotated[int, msgspec.Meta(ge=1024)]
    call_timeout_s: Annotated[float, msgspec.Meta(gt=0)]
    connections_max: Annotated[int, msgspec.Meta(ge=1)]
