"""Parley on a laptop: the same applications as on Lambda, with Postgres and Valkey installed from wheels."""
