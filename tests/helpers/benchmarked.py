"""Backbones and measurements with which the benchmark is tried without any real model."""
from torch import nn

from mmparax.benchmark.candidates import Candidate
from mmparax.benchmark.timing import OUT_OF_MEMORY, InterleavedTimer, Measurement, Workload
from mmparax.benchmark.timing_report import Comparison

WORK = Workload(size=(8, 8), rounds=3)


class Toy(nn.Module):
    """A backbone of one convolution that writes down its turns and can fail."""

    def __init__(self, name='toy', turns=None, error=None, after=0):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.name, self.turns, self.error, self.after = name, [] if turns is None else turns, error, after

    def forward(self, x):
        if self.training:
            self.turns.append(self.name)
            if self.error and self.turns.count(self.name) > self.after:
                raise self.error
        return (self.conv(x), )


def make_candidate(method='toy', **options):
    fields = {name: options.pop(name) for name in ('dtype', 'ops', 'efficient_attention', 'published') if name in options}
    return Candidate(method, lambda: Toy(method, **options), **fields)


def run_timer(*rows, work=WORK):
    timer = InterleavedTimer(rows, work)
    timer.run()
    return timer


def make_comparison(times, peaks=None, **options):
    """A comparison with given seconds of each method; None: it failed."""
    rows = []
    for method, seconds in times.items():
        error = None if seconds else OUT_OF_MEMORY
        rows.append(
            Measurement(Candidate(method, Toy, published=options.get(method)), 10, 40, (peaks or {}).get(method), 0, seconds
                        or [], seconds or [], error))
    return Comparison('swin-b', Workload((320, 320), batch=4), rows)
