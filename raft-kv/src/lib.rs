#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod api;
pub mod cli;
pub mod client;
pub mod command;
mod demo;
pub mod store;
