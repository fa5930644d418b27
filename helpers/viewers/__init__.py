"""tmp."""
from helpers.viewers import display, style
from helpers.viewers.display import describe
from helpers.viewers.slices import slices
style.use()
display.use()
