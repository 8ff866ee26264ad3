"""What callers share, so that none of them takes what another one needs. No network and no HTTP stand here.

turns     a ranking whose ranks may rise unseen, and turns by what each has had
portions  how much one caller may hold of what there is only so much of
threads   threads that callers take turns for
wanted    whether anybody waits for what a thread works out
"""
