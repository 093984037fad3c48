"""Prices that follow from the work alone: the same on every machine."""

from lwgraph.plan.price.oracle import Oracle, Price
from lwgraph.plan.price.price_table import PriceCache
from tests.layers.chain import ORT


class ByWork(Oracle):
    """Prices in proportion to the multiply-accumulates."""

    def __init__(self, folder, factor=1.0):
        super().__init__(ORT, PriceCache(folder))
        self.factor = factor

    def prices(self, site, forms, precision="float"):
        speed, dense = 1 if precision == "float" else 4, site.macs() * 1e-6
        taken = [dense if form is None else self.factor * form.macs(site) * 1e-6 for form in forms]
        return [Price(dense, ms / speed) for ms in taken]

    def switch(self, site):
        return 0.01
