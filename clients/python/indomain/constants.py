"""Every default of the SDK, with its unit in the name. The gateway reports its own limits (`Client.info`)."""

from __future__ import annotations

from typing import Final

DEFAULT_ADDRESS: Final = "localhost:8500"
# In place of an address: run the pipeline in this process.
EMBEDDED: Final = ":embedded:"

# Refinement is the slow part; the gateway stops it in time and answers with the best code found so far.
DEFAULT_TIMEOUT_S: Final = 60.0

DEFAULT_MAX_RETRIES: Final = 3
RETRY_FIRST_BACKOFF_S: Final = 0.2
RETRY_MAX_BACKOFF_S: Final = 5.0

# gRPC's own limit is 4 MiB; a batch of decoded pictures is larger.
MAX_RECEIVE_BYTES: Final = 256 * 1024 * 1024

# With gRPC's default back-off a channel needs up to half a minute to notice that a gateway is back.
CHANNEL_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    # In spite of its name the time that one attempt to connect may take: some round trips, with TLS.
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
)

API_KEY_VARIABLE: Final = "INDOMAIN_API_KEY"
REQUEST_ID_KEY: Final = "x-request-id"
# The same id, under a name that proxies do not know: some of them put an x-request-id of their own.
CALL_ID_KEY: Final = "indomain-request-id"
ERROR_DETAIL_KEY: Final = "indomain-error-bin"

# Arrays up to this size are sent without compression; larger ones as PNG, to stay under the gateway's limits.
MAX_RAW_PICTURE_BYTES: Final = 1024 * 1024
