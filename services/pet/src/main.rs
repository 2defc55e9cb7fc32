//! The pet service: the pets of a store.

fn main() {}
