"""The services apart on real servers: `make servers`, `make stack-test`, `make chaos`."""
