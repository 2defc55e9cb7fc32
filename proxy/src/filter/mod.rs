//! Filters: what happens to a request before it is routed and to an answer before it is sent.
//!
//! `edge` holds the connection manager's own rules for requests (whom to believe, hop-by-hop fields, request ids), `answer` those for
//! answers, `path` the normalisation of paths, `rules` what they go by. What routes add and remove is `mutation`, a rung below.
//! Called by `exchange`; calls `message`.

pub mod answer;
pub mod edge;
pub mod path;
pub mod rules;
