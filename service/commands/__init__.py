"""The commands of `cops`, one group a file."""
