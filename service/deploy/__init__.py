"""The same application on engines that run it on many machines; each is an extra."""
