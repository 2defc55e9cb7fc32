//! Compiled look-up: domains, then routes in their order.
//!
//! Part of `route`.

/// Virtual hosts by domain; each value is the place of a virtual host in its table.
#[derive(Debug, Default)]
pub struct Domains {}

/// What a table says of a request.
#[derive(Debug)]
pub struct Decision {}
