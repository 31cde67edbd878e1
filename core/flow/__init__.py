"""The continuous path: a flow over token embeddings (flow matching), and ReflexFlow.

Imports denoisers and the schedule.
"""
