"""Every option, declared once; YAML and command line; from options to objects of core.

Imports core and tasks.
"""
