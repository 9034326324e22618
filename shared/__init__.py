"""The leaf package every service stands on: domain values, ports, settings, clock, errors.

Nothing here imports a service (see docs/architecture.md, "Tree").
"""
