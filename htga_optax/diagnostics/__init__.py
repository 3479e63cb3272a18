"""Explains the state or the log of a run, in sentences and pictures.

This command reads a log and writes one HTML page::

    python -m htga_optax.diagnostics RUN.csv -o report.html

The page contains the verdict on a column of norms, the laws that were tested,
and pictures. It loads nothing from the network. A second command prints a table
of the spectra of a trained model's weights::

    python -m htga_optax.diagnostics weights CHECKPOINT

From Python::

    explain       describes an optimizer state in sentences
    report        writes a log as that HTML page
    pictures      draws the figures of the page
    logs          reads a log into columns of numbers
    verdicts      examines a column of norms, and explains it in sentences
    fits          fits laws to a sample and tests them
    spike_rules   applies the clip of this package and other rules to a log
    landscape     slices of a loss, the spectrum of its Hessian
    weights       the spectra of a trained model's weights
    plots         draws pictures of all of these

The extra `diagnostics` installs scipy and matplotlib. They are imported when a
function needs them. Nothing on the training path imports this package.
"""

from htga_optax.diagnostics import fits as fits
from htga_optax.diagnostics import landscape as landscape
from htga_optax.diagnostics import logs as logs
from htga_optax.diagnostics import plots as plots
from htga_optax.diagnostics import spike_rules as spike_rules
from htga_optax.diagnostics import verdicts as verdicts
from htga_optax.diagnostics import weights as weights
from htga_optax.diagnostics._explain import explain as explain
from htga_optax.diagnostics._report import pictures as pictures
from htga_optax.diagnostics._report import report as report
