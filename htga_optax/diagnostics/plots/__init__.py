"""Draws pictures of tails, runs, weights and loss landscapes, in one style.

Every function draws on the argument `ax`, or on the axes of a new figure, and
returns these axes. `ax.figure.savefig("tail.png")` writes the picture. No
function changes the global state of pyplot. The colours are those of Okabe and
Ito, which colour-blind readers can distinguish. Lines also differ in their
dashes, for print.
"""

from htga_optax.diagnostics.plots._landscape import loss_slice as loss_slice
from htga_optax.diagnostics.plots._landscape import (
  spectral_density as spectral_density,
)
from htga_optax.diagnostics.plots._run import mark as mark
from htga_optax.diagnostics.plots._run import norm_histograms as norm_histograms
from htga_optax.diagnostics.plots._run import series as series
from htga_optax.diagnostics.plots._run import step_size as step_size
from htga_optax.diagnostics.plots._run import tail_index as tail_index
from htga_optax.diagnostics.plots._style import COLORS as COLORS
from htga_optax.diagnostics.plots._style import DASHES as DASHES
from htga_optax.diagnostics.plots._style import DATA as DATA
from htga_optax.diagnostics.plots._style import panels as panels
from htga_optax.diagnostics.plots._tails import ccdf as ccdf
from htga_optax.diagnostics.plots._tails import hill_plot as hill_plot
from htga_optax.diagnostics.plots._tails import qq as qq
from htga_optax.diagnostics.plots._weights import layers as layers
from htga_optax.diagnostics.plots._weights import spectrum as spectrum
