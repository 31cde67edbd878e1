"""How a name becomes a policy: families, probes, adapters, caches, and code that a checkpoint brings along.

Imports settings and core.
"""
