"""What a request is to expect that comes now, by what was measured and by what is there.

pace      how long a pass takes on the device, and how many a batch has
ledger    what waits, added up by who asked and for what
crowd     what waits, and how much of it goes before a request or beside it
patience  how long each caller's requests of late were ready to wait
"""
