"""DualPath against numbers that the authors' own code computed.

``golden.json`` holds these numbers. GNU Octave 7.3 ran the authors' network definitions, losses,
solvers and evaluation (github.com/layumi/Image-Text-Embedding, commit eefe0f2) with the CPU kernels
of their MatConvNet in double precision, on weights and inputs that are given by formulas.
``formulas.py`` builds the same weights and inputs here.

An entry of an array is ``{"shape", "values", "sum", "abs_sum"}``. ``values[k]`` is element
``(k * 7919 * 131) mod size`` of the array in C order.
"""
