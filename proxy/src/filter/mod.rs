//! The HTTP filters of a configuration file: a module for each, and `chain`, which runs them in their order.

pub(crate) mod chain;
pub(crate) mod cors;
pub(crate) mod fault;
pub(crate) mod health_check;
pub(crate) mod local_rate_limit;
pub(crate) mod pace;
pub(crate) mod rbac;
#[cfg(test)]
#[path = "../../tests/unit/filter.rs"]
mod tests;
