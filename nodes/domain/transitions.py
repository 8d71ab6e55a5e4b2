"""The order table: every state against every event, as data, and the one function that reads it.

Evidence comes from the venue; deny, rec, cxl and rpl are ours. Only evidence ends UNKNOWN.
A cell is a letter (the state after) and a rule:

    D P O T F R C X M E U  DENIED PENDING OPEN PARTIAL FILLED REJECTED CANCELING CANCELED
                           REPLACING EXPIRED UNKNOWN
    B  OPEN or PARTIAL, by what is filled       .  ignored       r  refused to the caller
    #  a bug of ours: InvalidTransition         !  UNKNOWN(CONFLICT), alarm; F!: FILLED, alarm
    +  a late fill: booked, alarm               v  ignored unless the venue is ahead of us
    1  leaves a tombstone       2  only before the first attempt is sent, else #
    3  if never acknowledged and unfilled, else !       4  not for the order it replaced
    5  only if it answers the doubted command, else UNKNOWN     6  the cancel is sent
    A  never acknowledged and unfilled: REJECTED(NEVER_ARRIVED), else CANCELED(VANISHED)

Never here: books of orders, fills, time.
"""

from typing import Final, NamedTuple

from mesh.errors import InvalidTransition
from nodes.domain.orders import (
    CANCELED,
    CANCELING,
    DENIED,
    EXPIRED,
    FILLED,
    OPEN,
    PARTIAL,
    PENDING,
    REJECTED,
    REPLACING,
    UNKNOWN,
    Order,
    OrderState,
)

_TABLE: Final = """
          deny rec ack ref fill full exp trig cxl cok cno rpl rok rno dbt live abs
NEW       D    P   !   !   !    !    !   !    D1  !   .   r   !   .   .   !    .
DENIED    .    #   !   .   !    F!   .   !    r   .   .   r   !   .   .   !    .
PENDING   D2   #   O   R   T    F    E   O    C   X   .   r   !   .   U   B    .
OPEN      #    #   .   !   T    F    E   O    C   X   .   M   v   .   U   O    .
PARTIAL   #    #   .   !   T    F    E   T    C   X   .   M   v   .   U   T    .
CANCELING #    #   .   R3  C    F    E   C    C   X   B   r   v   .   U   C    .
REPLACING #    #   .   !   M    F    E   M    C   X4  .   r   B   B   U   M    .
UNKNOWN   #    #   B5  R3  T5   F    E   U    U6  X   B   r   B5  B5  U   B    A
FILLED    #    #   .   .   F+   F+   .   .    r   .   .   r   .   .   .   !    .
REJECTED  #    #   !   .   !    F!   .   !    r   .   .   r   !   .   .   !    .
CANCELED  #    #   .   .   X+   F+   .   .    r   .   .   r   v   .   .   !    .
EXPIRED   #    #   .   .   E+   F+   .   .    r   .   .   r   v   .   .   !    .
"""

_STATES: Final = {
    "D": DENIED,
    "P": PENDING,
    "O": OPEN,
    "T": PARTIAL,
    "F": FILLED,
    "R": REJECTED,
    "C": CANCELING,
    "X": CANCELED,
    "M": REPLACING,
    "E": EXPIRED,
    "U": UNKNOWN,
}

_DOUBTS: Final = {PENDING: "SUBMIT", CANCELING: "CANCEL", REPLACING: "REPLACE"}
_ANSWERS: Final = {"SUBMIT": ("ack", "fill"), "REPLACE": ("rok", "rno")}

EVENTS: Final = tuple(_TABLE.split("\n")[1].split())
CELLS: Final[dict[OrderState, dict[str, str]]] = {
    OrderState(line.split()[0]): dict(zip(EVENTS, line.split()[1:], strict=True))
    for line in _TABLE.strip().split("\n")[1:]
}


class Step(NamedTuple):
    """What an event does to an order; refused and ignored leave the state as it is."""

    state: OrderState
    doubt: str = ""  # SUBMIT CANCEL REPLACE MISSING CONFLICT while UNKNOWN
    reason: str = ""
    alarm: str = ""  # CONFLICT LATE_FILL FILLED_AFTER_END: a person must look
    ignored: bool = False
    refused: bool = False


def step(order: Order, event: str, *, sent: bool = True, newer: bool = False) -> Step:
    """Return what *event* makes of *order*, whose fills are booked already.

    sent: an attempt may have left for the venue; newer: the venue's version is ahead of ours.
    Raises InvalidTransition where only a bug of ours can lead.
    """
    cell = CELLS[order.state][event]
    rule = cell[1:]
    if cell == "#" or (rule == "2" and sent):
        raise InvalidTransition(f"{order.intent.client_order_id}: {event} in {order.state}")
    if cell == "r":
        return Step(order.state, order.doubt, refused=True)
    if cell == "." or (cell == "v" and not newer):
        return Step(order.state, order.doubt, order.reason, ignored=True)
    if cell in ("!", "v") or (rule == "3" and not _untouched(order)):
        return Step(UNKNOWN, "CONFLICT", f"{event} in {order.state}", "CONFLICT")
    return _move(order, event, cell, rule)


def _move(order: Order, event: str, cell: str, rule: str) -> Step:
    if cell == "A":
        if _untouched(order):
            return Step(REJECTED, reason="NEVER_ARRIVED")
        return Step(CANCELED, reason="VANISHED")
    if rule == "5" and event not in _ANSWERS.get(order.doubt, ()):
        return Step(UNKNOWN, order.doubt, order.reason)
    if cell[0] == "B":
        return Step(PARTIAL if order.filled else OPEN)
    state = _STATES[cell[0]]
    if state is UNKNOWN:
        return Step(UNKNOWN, order.doubt or _DOUBTS.get(order.state, "MISSING"))
    if rule == "!":
        return Step(state, alarm="FILLED_AFTER_END")
    return Step(state, alarm="LATE_FILL" if rule == "+" else "")


def _untouched(order: Order) -> bool:
    return not order.venue_order_id and not order.filled
