"""Runs one strategy: feeds it events, collects its actions, keeps its positions.

Positions are the sum of its fills, and working orders shrink by the same fills, so both
change at once. What a hook asks for is dropped if the hook raises; a few failures in a row
and the strategy only observes.

Never here: sending, files, rules of a strategy.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final, TypeAlias

import msgspec

from mesh.errors import ConfigError, MeshError
from mesh.protocol.commits import Applied
from nodes.domain.accounts import Position
from nodes.domain.market import BUY, Bar, Quote
from nodes.domain.numbers import add, bounded, canon, parse
from nodes.domain.orders import FILLED, TERMINAL, Fill, OrderEvent
from nodes.domain.plain import plain
from nodes.domain.strategies import StrategyStatus
from nodes.strategy.sdk import Action, Context, Params, Series, Strategy, Submit, Working

FAILURES_MAX: Final = 3  # in a row
SETTLE_S: Final = 5.0  # quiet this long, execution's word on a position is newer than ours
SCHEMA: Final = 2  # of what snapshot returns


Positions: TypeAlias = tuple[Applied, ...]


class Host:
    """One strategy and all it stands on; every method that feeds it returns its actions."""

    def __init__(
        self,
        kind: type[Strategy],
        *,
        name: str,
        epoch: int,
        account: str,
        params: Mapping[str, object],
    ) -> None:
        """Raise ConfigError for parameters that the strategy does not know."""
        self.ctx = Context(name, epoch, account)
        self.strategy = kind(parse_params(kind, params), kind.S())
        self.paused = False
        self.failures_in_row = 0
        self.reason = ""
        self.intents = self.denied = self.failures = 0
        self._reported: dict[str, Decimal] = {}
        self._unseen: set[str] = set()  # sent, and no order event yet
        self._quiet_since = 0.0
        self._hears_quotes = kind.on_quote is not Strategy.on_quote

    def start(self, now_ns: int) -> list[Action]:
        """Let the strategy declare what it follows. Raises ConfigError if it cannot even that."""
        actions = self._run(self.strategy.on_start, now_ns)
        if self.failures:
            raise ConfigError(f"strategy {self.ctx.name} cannot start: {self.reason}")
        return actions

    def meet(self, instrument: str) -> bool:
        """Let a series named by symbol alone (BTC-USDT.) follow the first venue that shows it.

        Return True if a series found its instrument.
        """
        found = [
            key for key in self.ctx.series if key[0][-1:] == "." and instrument.startswith(key[0])
        ]
        for alias, interval in found:
            self.ctx.series[instrument, interval] = self.ctx.series.pop((alias, interval))
        return bool(found)

    def warm(self, bars: Iterable[Bar]) -> None:
        """Merge past bars into their series and open its indicators again."""
        touched: dict[tuple[str, str], dict[int, Bar]] = {}
        for bar in bars:
            key = bar.instrument, bar.interval
            if key in self.ctx.series:
                touched.setdefault(key, {})[bar.open_ts] = bar
        for key, past in touched.items():
            series = self.ctx.series[key]
            past.update((bar.open_ts, bar) for bar in series.bars)
            series.bars.clear()
            series.bars.extend(past[open_ts] for open_ts in sorted(past))
            for indicator in series.indicators:
                indicator.reopen(float(bar.close) for bar in series.bars)

    def bar(self, bar: Bar, now_ns: int) -> list[Action]:
        """Take a closed bar in; old ones and foreign ones are ignored."""
        series = self.ctx.series.get((bar.instrument, bar.interval))
        if series is None or (series.bars and bar.open_ts <= series.bars[-1].open_ts):
            return []
        series.bars.append(bar)
        for indicator in series.indicators:
            indicator.update(float(bar.close))
        return self._run(self.strategy.on_bar, now_ns, bar) if self._warm(series) else []

    def quote(self, quote: Quote, now_ns: int) -> list[Action]:
        """Take the best bid and ask of a followed instrument in."""
        if not any(instrument == quote.instrument for instrument, _ in self.ctx.series):
            return []
        self.ctx.quotes[quote.instrument] = quote
        if not self._hears_quotes:
            return []
        return self._run(self.strategy.on_quote, now_ns, quote)

    def fill(self, fill: Fill, now_ns: int, now: float) -> list[Action]:
        """Apply a fill of ours, once. now: monotonic seconds."""
        if fill.strategy != self.ctx.name:
            return []
        ours = self._is_ours(fill.client_order_id)
        self._quiet_since = now
        signed = fill.quantity if fill.side is BUY else -fill.quantity
        self.ctx.positions[fill.instrument] = add(self.ctx.position(fill.instrument), signed)
        if order := self.ctx.working.get(fill.client_order_id):
            order.remaining = add(order.remaining, -signed)
            if not order.remaining:
                del self.ctx.working[fill.client_order_id]
        return self._run(self.strategy.on_fill, now_ns, fill) if ours else []

    def order(self, event: OrderEvent, now_ns: int, now: float) -> list[Action]:
        """Apply what happened to an order of ours. now: monotonic seconds."""
        intent = event.order.intent
        if intent.strategy != self.ctx.name:
            return []
        ours = self._is_ours(intent.client_order_id)
        self._quiet_since = now
        self._unseen.discard(intent.client_order_id)
        if event.order.state in TERMINAL and event.order.state is not FILLED:
            self.ctx.working.pop(intent.client_order_id, None)  # its fills came before
        return self._run(self.strategy.on_order, now_ns, event) if ours else []

    def sent(self, client_order_id: str) -> None:
        """Note that an intent is on its way."""
        self.intents += 1
        self._unseen.add(client_order_id)

    def drop(self, client_order_id: str, reason: str) -> bool:
        """Forget an intent that came to nothing; False if execution has told of it since."""
        if client_order_id not in self._unseen:
            return False
        self._unseen.discard(client_order_id)
        self.ctx.working.pop(client_order_id, None)
        self.denied += 1
        self.reason = reason
        return True

    def unseen(self) -> tuple[str, ...]:
        """Return the intents that execution has not told of."""
        return tuple(sorted(self._unseen))

    def report(self, position: Position) -> None:
        """Note what execution says that we hold."""
        if position.strategy == self.ctx.name and position.account == self.ctx.account:
            self._reported[position.instrument] = position.signed_quantity

    def adopt(self, now: float) -> dict[str, tuple[Decimal, Decimal]]:
        """Take execution's positions over where ours differ though all is quiet.

        Return instrument to (ours, theirs). now: monotonic seconds.
        """
        if self.ctx.working or now - self._quiet_since < SETTLE_S:
            return {}
        differing = {
            instrument: (self.ctx.position(instrument), theirs)
            for instrument, theirs in self._reported.items()
            if theirs != self.ctx.position(instrument)
        }
        self.ctx.positions.update({key: theirs for key, (_, theirs) in differing.items()})
        return differing

    def status(self, now_ns: int) -> StrategyStatus:
        """Return the strategy's face."""
        params = plain(self.strategy.p)
        held = {key: canon(value) for key, value in self.ctx.positions.items() if value}
        return StrategyStatus(
            name=self.ctx.name,
            kind=type(self.strategy).__name__,
            state=self.state,
            reason=self.reason,
            params={key: str(value) for key, value in params.items()},
            positions=held,
            working=len(self.ctx.working),
            intents=self.intents,
            denied=self.denied,
            failures=self.failures,
            ts_event=now_ns,
        )

    @property
    def state(self) -> str:
        """Return OBSERVE, PAUSED, WARMING or RUNNING."""
        if self.failures_in_row >= FAILURES_MAX:
            return "OBSERVE"
        if self.paused:
            return "PAUSED"
        return "RUNNING" if all(map(self._warm, self.ctx.series.values())) else "WARMING"

    def snapshot(self) -> dict[str, Any]:
        """Return all that a restart needs, as plain values."""
        return {
            "state": msgspec.to_builtins(self.strategy.s),
            "positions": plain(self.ctx.positions),
            "working": {
                key: [order.instrument, canon(order.remaining)]
                for key, order in self.ctx.working.items()
            },
            "unseen": sorted(self._unseen),
            "paused": self.paused,
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take over a snapshot. Raises ConfigError if the strategy's State has changed."""
        try:
            self.strategy.s = msgspec.convert(saved["state"], type(self.strategy).S)
        except msgspec.ValidationError as error:
            raise ConfigError(
                f"strategy {self.ctx.name}: its State does not fit its checkpoint: {error}"
            ) from None
        self.ctx.positions = {key: parse(text) for key, text in saved["positions"].items()}
        self.ctx.working = {
            key: Working(instrument, parse(text))
            for key, (instrument, text) in saved["working"].items()
        }
        self._unseen = set(saved["unseen"])
        self.paused = saved["paused"]

    def forget_orders(self) -> None:
        """Begin without positions and working orders: execution's journal is another one."""
        self.ctx.positions.clear()
        self.ctx.working.clear()
        self._unseen.clear()

    def _is_ours(self, client_order_id: str) -> bool:
        """Say whether hooks may hear of it: sent in this run, or working at its beginning."""
        known = client_order_id in self.ctx.working
        return known or client_order_id.startswith(self.ctx.prefix)

    def _warm(self, series: Series) -> bool:
        enough = len(series.bars) >= self.strategy.warmup
        return enough and all(indicator.ready for indicator in series.indicators)

    def _run(self, hook: Any, now_ns: int, *event: object) -> list[Action]:
        ctx, strategy = self.ctx, self.strategy
        ctx.now_ns = now_ns
        saved = msgspec.to_builtins(strategy.s)
        try:
            hook(ctx, *event)
        except Exception as error:  # noqa: BLE001 # a strategy is foreign code: anything may come
            strategy.s = msgspec.convert(saved, type(strategy).S)
            self.failures += 1
            self.failures_in_row += 1
            self.reason = f"{hook.__name__} raised {type(error).__name__}: {error}"[:256]
            self._take(keep=False)
            return []
        if self.failures_in_row >= FAILURES_MAX:
            return self._take(keep=False)
        self.failures_in_row = 0
        return self._take(keep=not self.paused)

    def _take(self, *, keep: bool) -> list[Action]:
        """Return the actions of a hook; without *keep* none, as if never asked for."""
        actions, self.ctx.actions = self.ctx.actions, []
        if keep:
            return actions
        for action in actions:
            if isinstance(action, Submit):
                self.ctx.working.pop(action.intent.client_order_id, None)
        return []


def parse_params(kind: type[Strategy], given: Mapping[str, object]) -> Params:
    """Return the strategy's Params. Raises ConfigError naming the wrong one."""
    try:
        params = msgspec.convert(dict(given), kind.P, strict=False)  # the environment has text
        for name in params.__struct_fields__:
            value = getattr(params, name)
            if isinstance(value, Decimal):
                if not isinstance(given.get(name, ""), str):
                    raise ConfigError(f'{kind.__name__}.{name}: write it as text, like "0.01"')
                bounded(value)
    except (msgspec.ValidationError, MeshError) as error:
        raise ConfigError(f"parameters of {kind.__name__}: {error}") from None
    return params


def upgrade_offsets(state: Any, positions: Positions) -> tuple[Any, Positions]:
    """Make schema 2 of schema 1, whose state held the offsets of journals itself."""
    kept = {key: value for key, value in state.items() if key not in ("version", "offsets")}
    offsets = state["offsets"].items()
    return kept, (*positions, *(Applied(node, log_id, at) for node, (log_id, at) in offsets))


def parse_bars(items: Iterable[Mapping[str, Any]]) -> list[Bar]:
    """Return bars from their plain form, as analysis.history gives them. Raises Invalid."""
    decimals = ("open", "high", "low", "close", "volume", "quote_volume", "taker_buy")
    return [Bar(**{**item, **{name: parse(item[name]) for name in decimals}}) for item in items]
