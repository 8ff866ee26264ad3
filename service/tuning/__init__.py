"""How a model runs best on this machine: found by measuring while the device is idle, and remembered.

For each precision: the fastest way to run the network, and the smallest batch that comes near its throughput
(`NEAR_BEST`). Of the precisions: the fastest one in which Score-CAM agrees with float32 (`Agreement`), where it pays
(`PAYS`). Until that is known, and where it is not to be measured, all runs in float32, as `settle` chose.

beforehand  measuring before anything is served
choice      what is chosen, given what was measured
records     what was measured, on disk
runtimes    other libraries as ways to run a network
steps       a step at a time on the device, in its idle time, within a budget
tuner       measuring, applying and remembering
"""

from service.tuning.tuner import Tuner

__all__ = ["Tuner"]
