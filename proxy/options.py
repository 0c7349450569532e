"""Every option, in one place: name, variable, default, meaning. `conf` reads them."""

from dataclasses import dataclass
from functools import partial

from proxy import choices, values
from proxy.ca_file import ca_file
from proxy.forwarding import Network
from proxy.key_file import KeyFile, key_file, signing_key_file, signing_keys
from proxy.paths import Paths, option


@dataclass(frozen=True, slots=True)
class Options(Paths):
    """The whole configuration (contract: Configuration). Durations are seconds, sizes are bytes."""

    port: int = option("port", "EKBO_PORT", values.port, 9180, "TCP port to listen on; 0 takes a free one")
    host: str = option("host", "EKBO_HOST", values.text, "", "address to listen on; empty: all")
    sock: str = option(
        "sock", "EKBO_UNIX_DOMAIN_SOCKET_FILENAME", values.text, "", "UNIX socket to listen on, instead of a port"
    )
    tls_cert: str = option(
        "tls_cert", "EKBO_TLS_CERT", values.text, "", "certificate chain, PEM: clients connect by TLS"
    )
    tls_key: str = option("tls_key", "EKBO_TLS_KEY", values.text, "", "its private key, PEM, without passphrase")
    connect_callback: str = option(
        "callback.connect", "EKBO_CONNECT_CALLBACK_URL", values.url, "", "asked whether a client may connect; required"
    )
    establish_callback: str = option(
        "callback.establish", "EKBO_ESTABLISH_CALLBACK_URL", values.url, "", "told when a session is open; empty: off"
    )
    close_callback: str = option(
        "callback.close", "EKBO_CLOSE_CALLBACK_URL", values.url, "", "told when a session has ended; empty: off"
    )
    receive_callback: str = option(
        "callback.receive", "EKBO_RECEIVE_CALLBACK_URL", values.url, "", "gets clients' frames; empty: discarded"
    )
    callback_timeout: float = option(
        "callback.timeout", "EKBO_CALLBACK_TIMEOUT", values.duration, 10.0, "for a whole callback; 0: none"
    )
    callback_limit: int = option(
        "callback.limit", "EKBO_CALLBACK_LIMIT", values.count, 0, "callbacks at once to a backend, per process; 0: any"
    )
    connect_limit: int = option(
        "callback.connect_limit", "EKBO_CONNECT_CALLBACK_LIMIT", values.count, 0, "of them connect (and of establish)"
    )
    receive_limit: int = option(
        "callback.receive_limit", "EKBO_RECEIVE_CALLBACK_LIMIT", values.count, 0, "of them receive; 0: all of them"
    )
    close_limit: int = option(
        "callback.close_limit", "EKBO_CLOSE_CALLBACK_LIMIT", values.count, 0, "of them close; 0: all of them"
    )
    callback_queue_size: int = option(
        "callback.queue_size", "EKBO_CALLBACK_QUEUE_SIZE", values.count, 100, "connects that wait for a turn; over: 503"
    )
    breaker_failures: int = option(
        "callback.breaker_failures",
        "EKBO_CALLBACK_BREAKER_FAILURES",
        values.count,
        0,
        "callbacks in a row without answer, then 503 at once; 0: off",
    )
    callback_ca: str = option(
        "callback.ca", "EKBO_CALLBACK_CA", ca_file, "", "file of CAs that vouch for https backends; empty: the system's"
    )
    signing_keys: tuple[str, ...] = option(
        "callback.signing_keys", "EKBO_CALLBACK_SIGNING_KEYS", signing_keys, (), "sign callbacks; two to rotate"
    )
    signing_keys_file: KeyFile | None = option(
        "callback.signing_keys_file", "EKBO_CALLBACK_SIGNING_KEYS_FILE", signing_key_file, None, "file of more of them"
    )
    receive_reply: bool = option(
        "receive_reply", "EKBO_RECEIVE_REPLY", values.boolean, False, "send the receive callback's answer to the client"
    )
    session_header: str = option(
        "session_header", "EKBO_SESSION_HEADER_NAME", values.header_name, "X-Kuiperbelt-Session", "names sessions"
    )
    endpoint: str = option(
        "endpoint",
        "EKBO_SELF_ENDPOINT_URL",
        values.text,
        "",
        "X-Kuiperbelt-Endpoint; empty: hostname:port, without a port up to 1023",
    )
    strict_broadcast: bool = option(
        "strict_broadcast", "EKBO_STRICT_BROADCAST_MODE_SWITCH", values.boolean, False, "all sessions of a push or none"
    )
    proxy_set_header: tuple[tuple[str, str], ...] = option(
        "proxy_set_header", "EKBO_PROXY_SET_HEADER", values.header_map, (), 'headers set in callbacks; "" removes'
    )
    send_timeout: float = option(
        "send_timeout", "EKBO_SEND_TIMEOUT", values.duration, 0.0, "wait for room in a full queue; 0: no limit"
    )
    send_queue_size: int = option(
        "send_queue_size", "EKBO_SEND_QUEUE_SIZE", values.count, 0, "messages queued while a client's socket is blocked"
    )
    blocked_timeout: float = option(
        "blocked_timeout", "EKBO_BLOCKED_TIMEOUT", values.positive_duration, 5.0, "a session blocked so long is closed"
    )
    max_backlog_size: int = option(
        "max_backlog_size", "EKBO_MAX_BACKLOG_SIZE", values.size, 1 << 20, "bytes waiting for one client; over: closed"
    )
    max_message_size: int = option(
        "max_message_size", "EKBO_MAX_MESSAGE_SIZE", values.size, 1 << 16, "bytes of a client's message; over: 1009"
    )
    max_body_size: int = option(
        "max_body_size", "EKBO_MAX_BODY_SIZE", values.size, 1 << 20, "bytes of an API request's body; over: 413"
    )
    max_batch_lines: int = option(
        "max_batch_lines", "EKBO_MAX_BATCH_LINES", values.count, 100_000, "lines of a batch; 0: no limit"
    )
    max_batch_line_size: int = option(
        "max_batch_line_size", "EKBO_MAX_BATCH_LINE_SIZE", values.size, 2 << 20, "bytes of one line of it"
    )
    batch_window: int = option(
        "batch_window", "EKBO_BATCH_WINDOW", values.count, 1000, "sessions that a batch waits for at once; 0: one line"
    )
    origin_policy: values.OriginPolicy = option(
        "origin_policy",
        "EKBO_ORIGIN_POLICY",
        values.origin_policy,
        values.OriginPolicy("none"),
        "none, same_origin, same_hostname, or a list of origins",
    )
    max_connections: int = option(
        "max_connections", "EKBO_MAX_CONNECTIONS", values.count, 0, "clients at once, per process; over: 503; 0: any"
    )
    max_http_connections: int = option(
        "max_http_connections", "EKBO_MAX_HTTP_CONNECTIONS", values.count, 0, "without a session, per process; 0: any"
    )
    max_connections_per_address: int = option(
        "max_connections_per_address", "EKBO_MAX_CONNECTIONS_PER_ADDRESS", values.count, 0, "of one address; 0: any"
    )
    connect_rate: int = option(
        "connect_rate", "EKBO_CONNECT_RATE", values.count, 0, "handshakes a second, per process; over: 503; 0: any"
    )
    header_timeout: float = option(
        "header_timeout", "EKBO_HEADER_TIMEOUT", values.duration, 10.0, "for a request's head, or TLS; 0: no limit"
    )
    body_timeout: float = option(
        "body_timeout", "EKBO_BODY_TIMEOUT", values.duration, 60.0, "for a request's body; 0: no limit"
    )
    message_rate: int = option(
        "message_rate", "EKBO_MESSAGE_RATE", values.count, 0, "a client's messages a second; over: 1008; 0: any"
    )
    idle_timeout: float = option(
        "idle_timeout", "EKBO_IDLE_TIMEOUT", values.duration, 0.0, "close a session without frames; 0: off"
    )
    drain_window: float = option(
        "drain_window", "EKBO_DRAIN_WINDOW", values.duration, 10.0, "spreads the closes at SIGTERM; 0: at once"
    )
    push_lane: bool = option(
        "push_lane", "EKBO_PUSH_LANE", values.boolean, True, "take /send and /close before Django does (runproxy)"
    )
    suppress_access_log: bool = option(
        "suppress_access_log", "EKBO_SUPPRESS_ACCESS_LOG", values.boolean, False, "no log line per request and session"
    )
    tracing: str = option("tracing", "EKBO_TRACING", choices.tracing, "off", "trace context: off, pass, or spans")
    log_format: str = option(
        "log.format", "EKBO_LOG_FORMAT", partial(choices.one_of, ("text", "json")), "text", "text for people, or JSON"
    )
    log_level: str = option(
        "log.level",
        "EKBO_LOG_LEVEL",
        partial(choices.one_of, ("debug", "info", "warning", "error")),
        "info",
        "least level that is logged: debug, info, warning, error",
    )
    trusted_proxies: tuple[Network, ...] = option(
        "trusted_proxies", "EKBO_TRUSTED_PROXIES", values.networks, (), "networks whose X-Forwarded-* are believed"
    )
    api_keys: tuple[str, ...] = option(
        "api_keys", "EKBO_API_KEYS", values.secrets, (), "Authorization: Bearer for the API; several for rotation"
    )
    api_keys_file: KeyFile | None = option(
        "api_keys_file", "EKBO_API_KEYS_FILE", key_file, None, "file of further keys, one a line"
    )
    api_allow: tuple[Network, ...] = option(
        "api_allow", "EKBO_API_ALLOW", values.networks, (), "networks that may use the API without a key"
    )
    api_port: int | None = option(
        "api_port", "EKBO_API_PORT", values.port, None, "TCP port of the API's own; then the public one hasn't the API"
    )
    api_host: str = option("api_host", "EKBO_API_HOST", values.text, "127.0.0.1", "address of that port")
    api_sock: str = option("api_sock", "EKBO_API_SOCK", values.text, "", "UNIX socket of the API's own, instead")

    redis_url: tuple[str, ...] = option(
        "redis.url", "EKBO_REDIS_URL", values.redis_urls, (), "Redis of the cluster; several are shards; empty: none"
    )
    redis_sentinels: tuple[tuple[str, int], ...] = option(
        "redis.sentinels", "EKBO_REDIS_SENTINELS", values.addresses, (), "Sentinels that know the cluster's Redis"
    )
    redis_master: str = option("redis.master", "EKBO_REDIS_MASTER", values.text, "", "its name among the Sentinels")
    redis_prefix: str = option(
        "redis.prefix", "EKBO_REDIS_PREFIX", values.redis_prefix, "kuiperbelt", "starts the names of all channels"
    )
    reply_timeout: float = option(
        "reply_timeout", "EKBO_REPLY_TIMEOUT", values.positive_duration, 1.0, "for Redis and for another node's answer"
    )
    duplicate_session: str = option(
        "duplicate_session",
        "EKBO_DUPLICATE_SESSION",
        partial(choices.one_of, ("replace", "reject", "join")),
        "replace",
        "a key connects again: replace, reject or join",
    )

    registry: bool = option(
        "registry", "EKBO_REGISTRY", values.boolean, True, "keep sessions and close events in the database"
    )
    database_url: str = option(
        "database_url", "EKBO_DATABASE_URL", values.database_url, "", "database; empty: kuiperbelt.sqlite3 here"
    )
    registry_query: bool = option(
        "registry_query", "EKBO_REGISTRY_QUERY", values.boolean, False, "keep clients' query strings in the registry"
    )
    node_timeout: float = option(
        "node_timeout", "EKBO_NODE_TIMEOUT", values.positive_duration, 30.0, "a process silent for this long is dead"
    )
    close_retry_for: float = option(
        "close_retry_for", "EKBO_CLOSE_RETRY_FOR", values.duration, 3600.0, "a failing close callback is tried so long"
    )

    watch_contents: bool = option(
        "watch_contents", "EKBO_WATCH_CONTENTS", values.boolean, False, "watchers may see what frames and answers say"
    )

    secret_key: str = option(
        "secret_key", "EKBO_SECRET_KEY", values.secret, "", "signs the admin's logins; empty: kept beside the database"
    )
    admin_origins: tuple[str, ...] = option(
        "admin_origins", "EKBO_ADMIN_ORIGINS", values.web_origins, (), "where browsers find the admin, beside localhost"
    )

    @property
    def clustered(self) -> bool:
        """Does the proxy work together with other processes, over Redis?"""
        return bool(self.redis_url or self.redis_sentinels)

    @property
    def has_api_listener(self) -> bool:
        """Has the API a listener of its own?"""
        return self.api_port is not None or bool(self.api_sock)

    @property
    def session_header_name(self) -> bytes:
        """The session header as ASGI names it."""
        return self.session_header.lower().encode()
