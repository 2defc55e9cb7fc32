//! The petmesh command: the local mesh, and configuration.

fn main() {}
