"""Parley on a laptop: the same apps as on Lambda, with a Postgres and a Valkey from wheels."""
