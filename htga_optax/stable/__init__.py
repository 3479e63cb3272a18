r"""Alpha-stable laws: noise whose sums are like itself, for every tail index.

A stable law has the characteristic function exp(-|t|^alpha) times a phase that
its skewness beta sets; alpha = 2 is N(0, 2), alpha = 1 and beta = 0 the Cauchy
law. With an angle V ~ U(-pi/2, pi/2) and an independent W ~ Exp(1), a sample
of a symmetric law is

    X = sin(alpha V)/cos V * E,    E = (N/(W cos V))^(eps/alpha),
    N = cos(eps V),    eps = 1 - alpha,

and with t = beta tan(pi alpha/2) = T/eps one of a law in Nolan's
parametrization S0, which is continuous in alpha, is

    X = tan V N E - [sin(eps V) + 2t sin(eps V/2)^2] E + t (E - 1),
    N = cos(eps V) + t sin(eps V).

Both are one formula for every alpha. What float32 asks for is where V is put:
the tail is at cos V -> 0, so V = s (pi/2 - w) is drawn by its sign s and its
distance w from the end. With e = |eps| and b = s beta, nothing cancels in

    cos V = sin w,
    N = [(1+b) sin(e(pi-w)) + (1-b) sin(e w)] / (2 sin(pi e/2)),

and at alpha = 1 all terms have their limits if e is 1e-12 rather than 0.

Both w and W come from the two words of one block of threefry2x32 (Salmon et
al. 2011), counted by the element's place in the array. Written out, the cipher
and the formula are one loop over the output: nothing is stored but the sample,
and a sharded array has the entries of the whole one, without communication.
"""

from htga_optax.stable._phi import phi as phi
from htga_optax.stable._sampling import isotropic as isotropic
from htga_optax.stable._sampling import positive as positive
from htga_optax.stable._sampling import sample as sample
