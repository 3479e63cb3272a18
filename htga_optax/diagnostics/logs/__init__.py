"""Reads a training log into columns of numbers."""

from htga_optax.diagnostics.logs._columns import columns as columns
from htga_optax.diagnostics.logs._columns import find as find
from htga_optax.diagnostics.logs._read import read as read
