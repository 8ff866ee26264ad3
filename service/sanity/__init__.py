"""Whether a method's maps depend on what a network has learnt, and on the class: found beforehand, at idle priority."""
