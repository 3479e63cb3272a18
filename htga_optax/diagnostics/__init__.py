"""The host side: a state or a log of a run, in words and pictures.

    python -m htga_optax.diagnostics RUN.csv -o report.html

writes one page that needs no network: the verdict on a column of norms, the
laws that were tested, and pictures. From Python:

    explain       a state after the step, in sentences
    report        a log as that page of HTML, `pictures` its figures
    logs          a log as columns of numbers
    verdicts      a column of norms: numbers, and sentences
    fits          which law fits a sample
    spike_rules   what this package's clip and others make of a spike
    landscape     slices of a loss, the spectrum of its Hessian
    plots         pictures of all of these

The extra `diagnostics` installs scipy and matplotlib. They are imported when a
function needs them. Nothing on the training path imports this package.
"""

from htga_optax.diagnostics import fits as fits
from htga_optax.diagnostics import landscape as landscape
from htga_optax.diagnostics import logs as logs
from htga_optax.diagnostics import plots as plots
from htga_optax.diagnostics import spike_rules as spike_rules
from htga_optax.diagnostics import verdicts as verdicts
from htga_optax.diagnostics._explain import explain as explain
from htga_optax.diagnostics._report import pictures as pictures
from htga_optax.diagnostics._report import report as report
