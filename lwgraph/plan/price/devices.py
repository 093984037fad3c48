"""Prices measured on other machines: tables that a kit's script wrote, and an oracle that reads them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lwgraph.errors import UsageError, did_you_mean
from lwgraph.executor import Executor
from lwgraph.layers.form import Form
from lwgraph.layers.site import Site
from lwgraph.plan.precision import FLOAT
from lwgraph.plan.price import kit_script
from lwgraph.plan.price.oracle import Oracle, Price
from lwgraph.plan.price.price_table import PriceCache
from lwgraph.plan.price.regress import LEADING, SWITCH, Row, settle


@dataclass(frozen=True)
class Device:
    """A machine whose prices are known.

    Attributes:
        name: what it is called, `--target NAME`.
        threads: of its runtime when it was measured.
        runtime, processor, system: for people.
    """

    name: str
    threads: int
    runtime: str = ""
    processor: str = ""
    system: str = ""

    @property
    def key(self) -> list[Any]:
        """The target's part of the keys of its prices."""
        return ["device", self.name, self.threads]

    def __str__(self) -> str:
        words = [self.runtime, f"threads={self.threads}", self.processor, self.system]
        return f"{self.name} ({', '.join(word for word in words if word)})"


@dataclass(frozen=True)
class Table:
    """A device and its prices: (key without the target, row, rounds)."""

    device: Device
    rows: tuple[tuple[Any, Row, int], ...]

    @classmethod
    def load(cls, path: Path | str) -> Table:
        """Read what a kit's script wrote.

        Raises:
            UsageError: the file cannot be read, or is no such table.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:  # no text, or a NUL in the name
            raise UsageError(f"table '{path}' cannot be read: {error}") from None
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"table '{path}' is not JSON: {error}") from None
        if not isinstance(data, dict) or data.get("lwgraph_prices") != kit_script.FORMAT:
            raise UsageError(f"'{path}' is not a table of prices; allowed: what a kit's measure.py wrote")
        try:
            device = Device(
                *(_checked(data[key], kind) for key, kind in (("device", str), ("threads", int))),
                *(_checked(data.get(key, ""), str) for key in ("runtime", "processor", "system")),
            )
            rows = tuple(row for batch in data["batches"] for row in _rows(batch))
        except (KeyError, TypeError, ValueError) as error:
            words = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise UsageError(f"table '{path}' is damaged: {words}; measure again") from None
        if not rows:
            raise UsageError(f"table '{path}' has no prices yet; run measure.py to its end")
        return cls(device, rows)

    def put(self, cache: PriceCache) -> None:
        """Store the prices and the device; those that are there under the same name and threads are replaced."""
        cache.put_many((json.dumps([self.device.key, *key]), *row, rounds) for key, row, rounds in self.rows)
        cache.put_device(self.device.name, asdict(self.device))


def _rows(batch: dict[str, Any]) -> list[tuple[Any, Row, int]]:
    kind, keys, times = batch["kind"], batch["keys"], batch["ms"]
    if kind not in LEADING:
        raise ValueError(f"batch of kind {kind!r}")
    expected = LEADING[kind] + (0 if kind == SWITCH else len(keys))
    if len(times) != expected:
        raise ValueError(f"{len(times)} times where {expected} belong")
    for ms in times:
        if ms is not None and not (isinstance(ms, (int, float)) and math.isfinite(ms) and ms > 0):
            raise ValueError(f"{ms!r} is not a time")
    rounds = _checked(batch["rounds"], int)
    return [(key, row, rounds) for key, row in zip(keys, settle(kind, times), strict=True)]


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{value!r} where {kind.__name__} belongs")
    return value


def devices(cache: PriceCache) -> dict[str, Device]:
    """The devices whose tables were imported, by name."""
    return {name: Device(**facts) for name, facts in cache.devices().items()}


def find_device(
    target: str, threads: int, cache: PriceCache | None = None, others: Sequence[str] = ()
) -> tuple[Device, PriceCache]:
    """The device that `--target` names: a table's file, or a device that was imported; and where its prices are.

    Args:
        target: what was asked for.
        threads: of the runtime.
        cache: where imported prices are; None: the user's.
        others: names that are targets, too; for the near miss.

    Raises:
        UsageError: there is none, or it was measured with other threads.
    """
    if target.endswith(".json") or Path(target).is_file():
        table, found = Table.load(target), PriceCache.in_memory()
        table.put(found)
        device = table.device
    else:
        found = PriceCache() if cache is None else cache
        known = devices(found)
        if target not in known:
            near = did_you_mean(target, [*others, *known])
            raise UsageError(f"--target is '{target}'{near}; or a table of prices (lwgraph measure --help)")
        device = known[target]
    if device.threads != threads:
        raise UsageError(
            f"--target {target}: '{device.name}' was measured with {device.threads} threads, --threads is {threads}; "
            f"give --threads {device.threads}, or measure it again"
        )
    return device, found


class DeviceOracle(Oracle):
    """Prices of another machine. Never measures: what its table lacks cannot be chosen, and is counted in `missing`.

    Args:
        executor: what runs models here.
        device: the machine.
        cache: its prices.
    """

    measures = False

    def __init__(self, executor: Executor, device: Device, cache: PriceCache) -> None:
        super().__init__(executor, cache)
        self.device, self._target = device, device.key
        self.missing: set[str] = set()

    @property
    def target(self) -> str:
        """The machine for which the prices hold, in words."""
        return str(self.device)

    def prices(self, site: Site, forms: Sequence[Form | None], precision: str = FLOAT) -> list[Price]:
        """The prices of forms at a site, as `Oracle.prices` gives them; infinite where the table has none."""
        keys, scale = self._keys(site, forms, precision)
        found = []
        for key, form in zip(keys, forms, strict=True):
            row = self.cache.get(key)
            if row is None:
                self.missing.add(site.name)
                found.append(Price(0.0, 0.0 if form is None and precision == FLOAT else math.inf))
            else:
                found.append(Price(row[0] * scale, row[1] * scale))
        return found

    def switch(self, site: Site) -> float:
        """The price of a switch; 0 where the table has none, since it has no integer layers then."""
        key, scale = self._switch_key(site)
        row = self.cache.get(key) if key else None
        return 0.0 if row is None else row[1] * scale

    def note(self) -> str:
        """A warning about missing prices; "" if there are none."""
        if not self.missing:
            return ""
        some = ", ".join(f"'{name}'" for name in sorted(self.missing)[:3])
        more = ", ..." if len(self.missing) > 3 else ""
        return (
            f"{self.device.name} has no prices for some forms of {len(self.missing)} layers ({some}{more}), which were "
            "not considered; export a kit for this model (lwgraph measure MODEL --export), measure and import it"
        )


__all__ = ["Device", "DeviceOracle", "Table", "devices", "find_device"]
