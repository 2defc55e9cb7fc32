//! Runs the whole mesh as processes on one machine.
