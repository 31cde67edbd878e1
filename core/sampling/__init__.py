"""The denoising loop below `core.generator`: the canvas, what a step reveals, and how a state is evaluated.

Step rules (`samplers`), selection rules (`selection`), solvers (`solvers`), random numbers (`noise`), contexts with
or without a cache. Imports denoisers and the schedule.
"""
