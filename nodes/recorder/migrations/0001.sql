-- The common subset of SQLite and PostgreSQL: times are bigint ns UTC, money is text, yes/no 0/1.

create table orders (
    client_order_id text primary key,
    strategy text not null,
    account text not null,
    instrument text not null,
    side text not null,
    kind text not null,
    tif text not null,
    quantity text not null,
    price text not null,
    state text not null,
    venue_order_id text not null,
    filled text not null,
    notional text not null,
    reason text not null,
    ts_created bigint not null,
    ts_state bigint not null,
    log_id text not null,
    log_offset bigint not null
);

create index orders_by_time on orders (ts_created, client_order_id);

create table order_events (
    node text not null,
    log_id text not null,
    log_offset bigint not null,
    client_order_id text not null,
    event text not null,
    state text not null,
    filled text not null,
    reason text not null,
    ts_state bigint not null,
    primary key (node, log_id, log_offset)
);

create index order_events_by_order on order_events (client_order_id, log_offset);

create table fills (
    account text not null,
    fill_id text not null,
    client_order_id text not null,
    venue_order_id text not null,
    strategy text not null,
    instrument text not null,
    side text not null,
    price text not null,
    quantity text not null,
    fee text not null,
    fee_ccy text not null,
    liquidity text not null,
    ts_event bigint not null,
    primary key (account, instrument, fill_id)
);

create index fills_by_time on fills (ts_event);

create table decisions (
    client_order_id text primary key,
    strategy text not null,
    approved bigint not null check (approved in (0, 1)),
    code text not null,
    detail text not null,
    mode_epoch bigint not null,
    ts_decided bigint not null
);

create index decisions_by_time on decisions (ts_decided, client_order_id);

create table bars (
    instrument text not null,
    interval text not null,
    open_ts bigint not null,
    close_ts bigint not null,
    open text not null,
    high text not null,
    low text not null,
    close text not null,
    volume text not null,
    quote_volume text not null,
    taker_buy text not null,
    trades bigint not null,
    empty bigint not null check (empty in (0, 1)),
    gap bigint not null check (gap in (0, 1)),
    primary key (instrument, interval, open_ts)
);

create index bars_by_time on bars (close_ts);

create table modes (
    term bigint not null,
    mode_epoch bigint not null,
    mode text not null,
    reason text not null,
    since bigint not null,
    by text not null,
    primary key (term, mode_epoch)
);

create index modes_by_time on modes (since);

create table offsets (
    node text not null,
    log_id text not null,
    log_offset bigint not null,
    primary key (node, log_id)
);
