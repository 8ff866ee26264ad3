"""What a server promises, held against what others do on the same machine, in one run.

line      one line of the table
peers     fresh and settled servers against libraries: Score-CAM, occlusion, savings
machine   rows of many clients, and of VGG-16, against the machine's own ceiling
sharing   who waits for whom: predictions under load, measuring, a batch's choice among thousands
starting  what a start and a command take
"""
