"""Parley: streaming chat whose every reply is one log that all readers share."""
