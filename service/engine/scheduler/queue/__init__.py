"""Which rows are next: the policy of the scheduler, without a thread, a clock or a network.

items  what waits
lanes  items of one kind, priority and caller, and how rows are dealt among them
gate   where items wait that hold memory
queue  all of them together: what the device sees

1. The highest priority goes first, down to the last row of it.
2. Within a priority callers take turns by the device time that they have had, and within a caller the networks do.
   Whoever was idle has no credit for it.
3. Within these, the kind of work (its key) is next that has waited longest; one that was just cut waits anew.
4. A batch is of one kind. It takes rows in the order of priority and of the callers' turns, whoever's turn it is first;
   of one caller's items first those that need no more than a quantum, then a quantum of each other one at a time, in
   the order of waiting. Whose turn is over waits behind who had none. Small items do not take all of more than three
   batches running while others of their caller wait. Idle work does not fill a batch that somebody waits for.
5. What holds memory from its first row to its end begins only where there is room (`gate`); of the room, no caller
   takes so much that there is none for the next one.
"""

from service.engine.scheduler.queue.items import IDLE, QUANTUM, Item, Share
from service.engine.scheduler.queue.queue import Queue

__all__ = ["IDLE", "QUANTUM", "Item", "Queue", "Share"]
