//! The petstore service: a store and, when asked, its pets.

fn main() {}
