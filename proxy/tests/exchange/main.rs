//! What an exchange does with clients and upstreams that do not keep to the ordinary course, over sockets.

mod client;
mod departure;
mod messages;
mod proxy;
