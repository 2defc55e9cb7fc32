//! Filters: what happens to a request before it goes to its cluster and to an answer before it is sent.
//!
//! `edge` holds the connection manager's own rules for requests (whom to believe, hop-by-hop fields, request ids), `answer` those for
//! answers, `path` the normalisation of paths, `rules` what they go by. `chain` is the way through the HTTP filters of the file, which have
//! a module each. What routes add and remove is `mutation`, a rung below.

pub mod answer;
pub mod chain;
pub mod cors;
pub mod edge;
pub mod fault;
pub mod health_check;
pub mod local_rate_limit;
pub mod pace;
pub mod path;
pub mod rbac;
pub mod rules;
#[cfg(test)]
mod tests;
