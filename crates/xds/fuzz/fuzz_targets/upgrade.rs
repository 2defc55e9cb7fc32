//! Fuzz target: `bodies::upgrade`.
//!
//! Called by libFuzzer; calls `bodies`.

#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|text: &str| bodies::upgrade(text));
