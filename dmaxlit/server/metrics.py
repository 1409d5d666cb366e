"""What Prometheus reads off the server."""

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from dmaxlit.engine.generation import Generation

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """Counters of one server. Tokens over :attr:`response_forwards` is the mean number of tokens per forward.

    Attributes:
        requests: HTTP requests, by path and status.
        forwards: Forwards of the model, each of several responses.
        prompt_tokens: Tokens of the prompts of complete responses.
        tokens: Tokens of complete responses.
        response_forwards: Forwards that complete responses took part in.
        responses: Complete responses, by the reason for which they ended.
        aborted: Responses whose client left.
        seconds: Time from a request's arrival to its last token.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = self._counter("http_requests", "HTTP requests", ["path", "status"])
        self.forwards = self._counter("forwards", "Forwards of the model")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts that were answered")
        self.tokens = self._counter("response_tokens", "Tokens of complete responses")
        self.response_forwards = self._counter("response_forwards", "Forwards that complete responses took part in")
        self.responses = self._counter("responses", "Complete responses", ["finish_reason"])
        self.aborted = self._counter("aborted_responses", "Responses whose client left")
        self.seconds = Histogram(
            "dmaxlit_request_seconds", "From arrival to the last token", buckets=_SECONDS, registry=self._registry
        )

    def _counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(f"dmaxlit_{name}", text, labels, registry=self._registry)

    def watch(self, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        """Show how many responses are being decoded and how many wait, at the time when they are read."""
        for name, text, value in (
            ("dmaxlit_running_responses", "Responses that are being decoded", running),
            ("dmaxlit_waiting_responses", "Responses that wait for a place", waiting),
        ):
            Gauge(name, text, registry=self._registry).set_function(value)

    def count(self, generations: Sequence[Generation], prompt_ids: Sequence[Sequence[int]], seconds: float) -> None:
        """Count the responses to a request.

        Args:
            generations: The responses, complete.
            prompt_ids: Token ids of the prompts.
            seconds: From the arrival of the request.
        """
        self.seconds.observe(seconds)
        self.prompt_tokens.inc(sum(map(len, prompt_ids)))
        for generation in generations:
            self.tokens.inc(generation.num_tokens)
            self.response_forwards.inc(generation.num_forwards)
            self.responses.labels(finish_reason(generation)).inc()

    def text(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return bytes(generate_latest(self._registry))


def finish_reason(generation: Generation) -> str:
    """Return why a response ended, as OpenAI's API words it: ``stop``, or ``length`` at a limit."""
    return "stop" if generation.finished else "length"
