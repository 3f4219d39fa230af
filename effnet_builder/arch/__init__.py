"""Specs, plans and their costs: standard library and pydantic only, never torch."""
