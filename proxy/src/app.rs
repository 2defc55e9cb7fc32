//! Wiring: arguments and bootstrap -> snapshot -> workers, control, admin; and the ordered shutdown.
//!
//! Called by `main`; calls everything.

pub mod drain;
