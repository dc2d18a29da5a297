"""Requests to engines and servers, and what comes back."""
