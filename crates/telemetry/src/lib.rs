//! Logs and trace context for every petmesh binary.
