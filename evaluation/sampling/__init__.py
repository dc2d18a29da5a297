"""Requests to engines and servers, and their completions."""
