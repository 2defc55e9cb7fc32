//! One test-suite for the mesh on every substrate.
