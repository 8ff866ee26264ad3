"""Exact rows of pictures with one box changed: only what the box can reach is computed again.

recording    a network written down: graph (nodes and rules), operators (which rule each follows), writing
regions      which part of each map a change reaches
rectangles   copying rectangles out of maps and into them
clean        what is kept of a clean picture
batch        a batch's way through the operators
costs        what operators and copying take
planning     how rectangles of one size are best worked off
proving      the proof, on seeded changes
incremental  all of them together: what the rest of the engine sees
work         rows of boxes as work for the device

Whatever runs the network or a batch runs on the device thread; all else only reads, and may run on any thread.
"""

from service.engine.incremental.clean import Clean
from service.engine.incremental.incremental import Incremental
from service.engine.incremental.planning import Plan
from service.engine.incremental.recording.graph import NotIncremental

__all__ = ["Clean", "Incremental", "NotIncremental", "Plan"]
