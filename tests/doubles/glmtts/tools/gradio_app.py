"""Here so that there is a package ``tools`` without an ``__init__.py``."""
