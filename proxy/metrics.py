"""GET {path.metrics}: the counters of `stats` in Prometheus' form (docs/metrics.md). `handlers` serves the view."""

import platform
from collections.abc import Iterator, Sequence
from itertools import accumulate

from django.http import HttpResponse
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

import proxy
from proxy import conf
from proxy.access import admit
from proxy.handlers import ProxyRequest
from proxy.stats import BUCKETS, MICROSECONDS, Histogram, Numbers, Stats, stats

PREFIX = "kuiperbelt_"


class Collector:
    """What prometheus_client asks for, of all processes of the node."""

    def __init__(self, counted: Stats) -> None:
        self._stats = counted

    def collect(self) -> Iterator[Metric]:
        found = self._stats.read()
        for numbers in self._stats.numbers:
            yield family(numbers, found)
        build = GaugeMetricFamily(f"{PREFIX}build_info", "what runs here; always 1", labels=("version", "python"))
        build.add_metric((proxy.__version__, platform.python_version()), 1)
        yield build


def family(numbers: Numbers, found: Sequence[int]) -> Metric:
    """One metric with its samples; `found` is what stands at all places."""
    name, meaning, labels = f"{PREFIX}{numbers.name}", numbers.meaning, numbers.labels
    if isinstance(numbers, Histogram):
        histogram = HistogramMetricFamily(name, meaning, labels=labels)
        for values, place in numbers.places.items():
            *counts, total = found[place : place + numbers.width]
            bounds = [*map(str, BUCKETS), "+Inf"]
            histogram.add_metric(values, list(zip(bounds, accumulate(counts), strict=True)), total / MICROSECONDS)
        return histogram
    kind = GaugeMetricFamily if numbers.gauge else CounterMetricFamily
    plain = kind(name, meaning, labels=labels)
    for values, place in numbers.places.items():
        plain.add_metric(values, found[place] if numbers.per == 1 else found[place] / numbers.per)
    return plain


_registry = CollectorRegistry(auto_describe=False)
_registry.register(Collector(stats))


async def metrics(request: ProxyRequest) -> HttpResponse:
    """The view. Who asks must be allowed to, for this tells more of the backend than /stats does."""
    if grant := admit(request.scope, conf.options()):
        grant.check("metrics")
    try:
        encode, content_type = choose_encoder(request.header(b"accept"))
    except (ValueError, TypeError):  # it can't read what the header says of versions
        encode, content_type = choose_encoder("")
    return HttpResponse(encode(_registry), content_type=content_type)
