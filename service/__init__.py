"""The API and the command line over what the sweeps left behind."""
