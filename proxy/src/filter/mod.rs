//! The HTTP filters of a configuration file: a module for each, and `chain`, which runs them in their order.

pub mod chain;
pub mod cors;
pub mod fault;
pub mod health_check;
pub mod local_rate_limit;
pub mod pace;
pub mod rbac;
#[cfg(test)]
mod tests;
