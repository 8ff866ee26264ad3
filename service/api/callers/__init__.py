"""Who asks: by which address, behind which proxies, with which key; and what follows from that.

callers  the address of a request, whom it counts for, and what it may ask for
keys     which keys there are, and what each may
"""
