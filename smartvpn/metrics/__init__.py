"""A daemon's telemetry for Prometheus: `smartvpn_daemon --metrics`, with the extra `smartvpn[metrics]`.

It lives in the daemon and not behind the management socket: a scrape is one look at the engine however many
clients there are, and who may read figures is not thereby allowed to command the hub.
"""

from smartvpn.metrics.endpoint import MetricsEndpoint

__all__ = ["MetricsEndpoint"]
