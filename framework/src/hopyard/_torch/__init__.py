"""The one door to private torch.

Every name of torch that is not public API enters Hopyard through a module of this package, grouped
by topic and re-exported under a plain name. An upgrade of torch touches this folder and no other; a
test looks at every name, and a lint rule keeps the door the only one.
"""
