r"""Samples alpha-stable laws: heavy-tailed noise for every tail index.

The sum of independent samples of a stable law has the same law, up to scale and
location. A stable law has the characteristic function ``exp(-|t|^alpha)`` times
a phase that its skewness beta sets. For alpha = 2 it is N(0, 2), for alpha = 1
and beta = 0 the Cauchy law. Let V ~ U(-pi/2, pi/2) be an angle and W ~ Exp(1)
be independent of it. A sample of a symmetric law is::

    X = sin(alpha V)/cos V * E,    E = (N/(W cos V))^(eps/alpha),
    N = cos(eps V),    eps = 1 - alpha.

Let t = beta tan(pi alpha/2) = T/eps. A sample of a law in Nolan's
parametrization S0, which is continuous in alpha, is::

    X = tan V N E - [sin(eps V) + 2t sin(eps V/2)^2] E + t (E - 1),
    N = cos(eps V) + t sin(eps V).

Both are one formula for every alpha. Float32 needs care where cos V -> 0, since
the tail is there. So V = s (pi/2 - w) is drawn by its sign s and its distance w
from the end of the interval. With ``e = |eps|`` and b = s beta, nothing cancels
in::

    cos V = sin w,
    N = [(1+b) sin(e(pi-w)) + (1-b) sin(e w)] / (2 sin(pi e/2)).

At alpha = 1 all terms have their limits if e is 1e-12 instead of 0.

Both w and W come from the two words of one block of threefry2x32 (Salmon et
al. 2011); its counter is the element's place in the array. The cipher and the
formula are written out, so they are one loop over the output. Nothing but the
sample is stored, and a sharded array has the entries of the whole one, without
communication.
"""

from htga_optax.stable._phi import phi as phi
from htga_optax.stable._sampling import isotropic as isotropic
from htga_optax.stable._sampling import positive as positive
from htga_optax.stable._sampling import sample as sample
