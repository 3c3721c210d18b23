"""A model in use: `ask` answers on the command line, `serve` over HTTP."""
