"""Counters in Prometheus' format; they contain no content of requests."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The counters of one server."""

    def __init__(self, waiting: Callable[[], int], inside: Callable[[], int]):
        self._registry = own = CollectorRegistry()
        self._requests = Counter(
            "caad_requests", "Requests by the status that they ended with", ["status"], registry=own
        )
        self._seconds = Histogram("caad_request_seconds", "From a request to its answer", buckets=SECONDS, registry=own)
        self._batches = Histogram("caad_batch_size", "Requests answered together", buckets=SIZES, registry=own)
        self._tokens = Counter("caad_tokens", "Tokens of answered requests", ["kind"], registry=own)
        Gauge("caad_queue_length", "Requests that wait for a batch", registry=own).set_function(waiting)
        Gauge("caad_requests_inside", "Requests that have no whole answer yet", registry=own).set_function(inside)

    def ended(self, status: int, seconds: float) -> None:
        """Count a request by its status; 499: the client disconnected."""
        self._requests.labels(str(status)).inc()
        if status == 200:
            self._seconds.observe(seconds)

    def batch(self, size: int) -> None:
        """Count a batch."""
        self._batches.observe(size)

    def answered(self, prompt: int, completion: int) -> None:
        """Count the tokens of an answer."""
        self._tokens.labels("prompt").inc(prompt)
        self._tokens.labels("completion").inc(completion)

    def text(self) -> bytes:
        """Return all counters as text."""
        return generate_latest(self._registry)
