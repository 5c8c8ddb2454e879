"""Every shape and type that vl3ref's signatures state is checked while the tests run, so what is written is true."""

from jaxtyping import install_import_hook

hook = install_import_hook("vl3ref", "beartype.beartype")
