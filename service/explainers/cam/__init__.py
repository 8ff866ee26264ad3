"""Class activation maps: the maps of a layer, weighed and added up."""
