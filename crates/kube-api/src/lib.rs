//! A small Kubernetes API server for the local mesh and the tests.
