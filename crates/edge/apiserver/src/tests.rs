//! The API through real TLS sockets.

mod accounts;
mod apply;
mod auth;
mod bad_input;
mod documents;
mod events;
mod generated;
mod harness;
mod join;
mod kubectl;
mod lists;
mod past_mistakes;
mod proxy;
mod reviews;
mod watches;
mod writes;
