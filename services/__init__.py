"""Five services, each a leaf: a service imports `shared` and libraries, never a sibling."""
