"""Shapes and types of core are checked at every call a test makes, trainers' calls included."""

from jaxtyping import install_import_hook

install_import_hook("core", "beartype.beartype")
