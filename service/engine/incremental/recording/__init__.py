"""A network written down: its operators, in the order of a forward, and the rule by which each passes regions on."""
