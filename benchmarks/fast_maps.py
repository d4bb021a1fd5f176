"""Maps that are multiplied faster than their dense matrix, against the dense product."""

from __future__ import annotations

from benchmarks.maps import against_dense, dense, forward_and_backward
from benchmarks.measure import Work, row
from slimgraph import slim

for n, batch, at_most in ((256, 256, 2.0), (1024, 256, 0.6), (4096, 128, 0.15)):
    against_dense("butterfly", n, at_most, batch)
    against_dense("monarch", n, at_most, batch)
for n, batch, at_most in ((256, 256, 1.2), (1024, 256, 0.3), (4096, 128, 0.1)):
    against_dense("toeplitz", n, at_most, batch)


@row("butterfly n=4096 batch=128, untied / dense product", at_most=0.2)
def _() -> tuple[Work, Work]:
    m = slim.ButterflyLinear(4096, 4096, tied_weight=False)
    return forward_and_backward(m, 4096, 128), dense(4096, 128)


@row("butterfly n=4096 batch=128, complex and untied / dense product", at_most=0.4)
def _() -> tuple[Work, Work]:
    m = slim.ButterflyLinear(4096, 4096, complex=True, tied_weight=False)
    return forward_and_backward(m, 4096, 128), dense(4096, 128)
