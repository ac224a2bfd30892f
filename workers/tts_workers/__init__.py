"""Runs beside a GPU: the HA agent, the engine host, the engines and the text front end."""
